"""An engine in a process of its own that computes nothing.

    python -m tests.bench.ttft_fakes KIND

It takes a millisecond a token that it computes, by its own account. With a KIND other than
"none" it remembers prompts after forgetting its own cache; one of the kind
"ends" or "killed" does not live to answer, and one that "computes" has no cache of its own.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from tierd_bench.ttft.child import serve
from tierd_bench.ttft.engines import Engine, EngineFacts
from tierd_bench.ttft.stores import Store

TOKENS_MAX: Final = 3000
BLOCK_TOKENS: Final = 128
TOKEN_S: Final = 0.001
LOAD_S: Final = 0.02
"""What a prompt from a store takes longer than one from the engine's own cache."""


class FakeEngine:
    """Prompts seen, in its own cache and in the store's memory and files."""

    def __init__(self, kind: str, **_: Any) -> None:
        self._stores = kind not in ("none", "computes")
        self._kind = kind
        self._own: list[tuple[str, list[int]]] = []
        self._kept: list[tuple[str, list[int]]] = []

    def facts(self) -> dict[str, Any]:
        return {
            "tokens_max": TOKENS_MAX,
            "vocabulary": 1000,
            "block_tokens": BLOCK_TOKENS,
            "token_bytes": 100,
            "engine": "vLLM fake",
        }

    def ask(self, tokens: list[int], answer_tokens: int, salt: str) -> dict[str, Any]:
        if self._kind == "ends":
            sys.exit("the fake engine has ended")
        if self._kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        own, kept = (_shared(tokens, salt, seen) for seen in (self._own, self._kept))
        reused = max(own, kept)
        if self._kind != "computes":
            self._own.append((salt, tokens))
        if self._stores:
            self._kept.append((salt, tokens))
        seconds = (len(tokens) - reused) * TOKEN_S + (LOAD_S if kept > own else 0)
        # What was computed in other pieces differs in its last bits.
        answer = [[sum(tokens) % 1000 + index, -float(reused)] for index in range(answer_tokens)]
        return {"first_s": seconds, "reused_tokens": reused, "answer": answer}

    def forget(self) -> dict[str, Any]:
        self._own.clear()
        return {}

    def forget_connector_too(self) -> dict[str, Any]:
        return {"error": "keeps what it was to forget"}

    def close(self) -> None:
        """It has nothing."""


def fake_engine(name: str, log: Path, kind: str = "none") -> tuple[Engine, EngineFacts]:
    """Return a fake engine of a `kind`, its process running."""
    engine = Engine(name, [sys.executable, "-m", "tests.bench.ttft_fakes", kind], log)
    return engine, engine.load(Path("model"), TOKENS_MAX, None)


def fake_store(name: str, log: Path) -> Store:
    """Return a store with a fake engine that remembers, its process running."""
    engine, _ = fake_engine(name, log, "keeps")
    return Store(name, engine, {"host": engine.forget, "disk": engine.forget})


def _shared(tokens: list[int], salt: str, seen: list[tuple[str, list[int]]]) -> int:
    """Return how many tokens of whole blocks, but the last, one of those seen begins with."""
    most = 0
    for name, other in seen:
        same = 0
        while same < min(len(tokens) - 1, len(other)) and tokens[same] == other[same]:
            same += 1
        if name == salt:
            most = max(most, same // BLOCK_TOKENS * BLOCK_TOKENS)
    return most


if __name__ == "__main__":
    serve(partial(FakeEngine, sys.argv[1]))
