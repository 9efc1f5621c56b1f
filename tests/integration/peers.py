"""Other processes: functions that run in one of their own, and talk over a pipe."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from tests.integration.daemons import PATIENCE_S

_SPAWN = multiprocessing.get_context("spawn")


class Peer:
    """A process that runs `work(pipe, *args)`; it is killed, if it still runs, at the end."""

    def __init__(self, work: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=work, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def take(self) -> Any:
        """Return the next thing that it says."""
        return taken(self.pipe)

    def go_on(self, word: Any = None) -> None:
        """Say something to it."""
        self.pipe.send(word)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Stop it in its tracks."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.pipe.close()
        self._process.close()


def taken(pipe: "Connection[Any, Any]") -> Any:
    """Return the next thing in a pipe, or fail if nothing comes."""
    assert pipe.poll(PATIENCE_S), "the other process says nothing"
    return pipe.recv()
