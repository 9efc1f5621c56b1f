"""The loop of an engine in a process of its own: what `engines.py` starts and drives.

One line of JSON in is one command, one line out its answer; whatever else the engine prints goes
to standard error. Runs in the engine's environment, so it imports nothing of the bench.

    {"do": "start", "model": ..., "tokens_max": 8192, "connector": {...} or null}
    {"do": "ask", "tokens": [...], "answer_tokens": 8, "salt": ""}
    {"do": "forget"}
    {"do": "forget_connector_too"}
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol


class Engine(Protocol):
    """What a process serves. Each method but `close` returns its answer as it is sent."""

    def facts(self) -> dict[str, Any]:
        """Return the fields of `engines.EngineFacts`."""
        ...

    def ask(self, tokens: list[int], answer_tokens: int, salt: str) -> dict[str, Any]:
        """Answer a prompt greedily, sharing KV only with prompts of the same `salt`.

        Returns `first_s`, the seconds until the first token, `reused_tokens`, and `answer`, a
        token and its log probability each.
        """
        ...

    def forget(self) -> dict[str, Any]:
        """Empty the engine's own cache. `error` says why that failed."""
        ...

    def forget_connector_too(self) -> dict[str, Any]:
        """The same, and what its connector holds in memory."""
        ...

    def close(self) -> None:
        """Give back what outlives a process, such as shared memory."""
        ...


def serve(start: Callable[..., Engine]) -> None:
    """Do as the lines on standard input say, until they end; then end the process."""
    with _answers() as answers:
        engine: Engine | None = None
        for line in sys.stdin:
            command = json.loads(line)
            do = command.pop("do")
            if do == "start":
                engine = start(**command)
                reply = engine.facts()
            else:
                assert engine is not None, "start comes first"
                commands: dict[str, Callable[..., dict[str, Any]]] = {
                    "ask": engine.ask,
                    "forget": engine.forget,
                    "forget_connector_too": engine.forget_connector_too,
                }
                reply = commands[do](**command)
            answers.write(json.dumps(reply) + "\n")
            answers.flush()
        if engine is not None:
            engine.close()
    # Some connectors' threads never end by themselves.
    os._exit(0)


@contextmanager
def _answers() -> Iterator[IO[str]]:
    """Give standard output to the answers alone: engines print, too."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield answers
