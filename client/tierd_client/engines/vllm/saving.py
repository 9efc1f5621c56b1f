"""Publishes blocks from an engine's pages: reserve, gather straight into the slots, seal."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final, TypeVar

import torch

from tierd_client.engines.link import Link
from tierd_client.engines.vllm.layout import Stage
from tierd_client.engines.vllm.messages import Save
from tierd_client.views import Reservation

_T = TypeVar("_T")

_ANSWER_S_MAX: Final = 1.0
"""How long pages are kept for a daemon that does not answer. Nothing is saved until it does."""


class Saver:
    """Publishes from one worker's pages.

    Concurrency: `mark` in the engine's thread, `run` in one other.
    """

    def __init__(self, stage: Stage) -> None:
        self._memory = stage.memory
        self._part = stage.part
        self._publishes = stage.publishes
        self._stream = stage.memory.stream()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="tierd-reserve")
        self._asked: Future[Any] | None = None

    def mark(self) -> Any:
        """Return a mark of all that the device was asked to do until now; None without one."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._memory.device))
        return event

    def run(self, link: Link, save: Save, gathered: threading.Event, ready: Any) -> list[int]:
        """Publish what nobody holds of a save; return the positions that are visible now.

        `gathered` is set as soon as the pages are not needed any more. First writer wins: what
        others hold, or are writing, is left to them, and no room is an ordinary answer.
        """
        try:
            reservation = self._reserved(link, save)
            if reservation is None:
                return []
            with reservation:
                indices = reservation.indices
                if not indices or indices[0] < save.first:
                    return []  # What they would hang on was evicted meanwhile, and is not here.
                if self._stream is None:
                    blocks = len(save.keys) - save.first
                    reservation.write(self._memory.places(save.table, 0, blocks), save.first)
                else:
                    whole = range(indices[0] - save.first, indices[-1] + 1 - save.first)
                    firsts = [at * self._memory.span for at in whole]
                    reservation.write(self._gather(save, firsts, ready), indices[0])
                gathered.set()
                sealed = self._answer(self._asking.submit(reservation.seal))
                return list(indices[: sealed or 0])
        finally:
            gathered.set()

    def close(self) -> None:
        """Ask nothing more."""
        self._asking.shutdown(wait=False, cancel_futures=True)

    def _reserved(self, link: Link, save: Save) -> Reservation | None:
        """Return slots for a save; None if the daemon is away, or does not answer."""
        spaces = link.spaces
        stalls = self._asked is not None and not self._asked.done()
        if not self._publishes or not spaces or stalls:
            return None
        asked = self._asking.submit(spaces[0].reserve, save.keys, part=self._part)
        reservation = self._answer(asked)
        if reservation is None:
            asked.add_done_callback(_abort)
        return reservation

    def _answer(self, asked: "Future[_T]") -> _T | None:
        """Return the daemon's answer; None if it does not come in time."""
        self._asked = asked
        try:
            return asked.result(_ANSWER_S_MAX)
        except FutureTimeoutError:
            return None

    def _gather(self, save: Save, firsts: list[int], ready: Any) -> torch.Tensor:
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            parts = self._memory.gather_tensor(save.table, firsts)
        self._stream.synchronize()
        return parts


def _abort(asked: "Future[Reservation]") -> None:
    if not asked.cancelled() and asked.exception() is None:
        asked.result().abort()
