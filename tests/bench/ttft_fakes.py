"""An engine that speaks the bench's lines of JSON and computes nothing.

    python -m tests.bench.ttft_fakes KIND

It takes a millisecond a token that it computes, by its own account. With a KIND other than
"none" it remembers prompts after forgetting its own cache; one of the kind
"ends" or "killed" does not live to answer.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from tierd_bench.ttft.engines import Engine
from tierd_bench.ttft.ways import Store

TOKENS_MAX: Final = 3000
BLOCK_TOKENS: Final = 128
TOKEN_S: Final = 0.001
LOAD_S: Final = 0.02
"""What a prompt from a store takes longer than one from the engine's own cache."""


class FakeEngine:
    """Prompts seen, in its own cache and in the store's memory and files."""

    def __init__(self, kind: str) -> None:
        self._stores = kind != "none"
        self._kind = kind
        self._own: list[tuple[str, list[int]]] = []
        self._kept: list[tuple[str, list[int]]] = []

    def start(self, **_: Any) -> dict[str, Any]:
        return {
            "tokens_max": TOKENS_MAX,
            "vocabulary": 1000,
            "token_bytes": 100,
            "engine": "fake 1",
        }

    def ask(self, tokens: list[int], answer_tokens: int, apart: str) -> dict[str, Any]:
        if self._kind == "ends":
            sys.exit("the fake engine has ended")
        if self._kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        own, kept = (_shared(tokens, apart, seen) for seen in (self._own, self._kept))
        reused = max(own, kept)
        self._own.append((apart, tokens))
        if self._stores:
            self._kept.append((apart, tokens))
        seconds = (len(tokens) - reused) * TOKEN_S + (LOAD_S if kept > own else 0)
        # What was computed in other pieces differs in its last bits.
        answer = [[sum(tokens) % 1000 + place, -float(reused)] for place in range(answer_tokens)]
        return {"first_s": seconds, "reused_tokens": reused, "answer": answer}

    def forget(self, *, connector_too: bool) -> dict[str, Any]:
        self._own.clear()
        return {"error": "keeps what it was to forget"} if connector_too else {}


def fake_store(name: str, log: Path, kind: str = "none") -> Store:
    """Return a store with a fake engine of a `kind`, its process running."""
    command = [sys.executable, "-m", "tests.bench.ttft_fakes", kind]
    engine = Engine(name, Path(sys.executable), log, 1, command)
    facts = engine.load(Path("model"), TOKENS_MAX, None)
    places = {"host": engine.forget, "disk": engine.forget} if kind != "none" else {}
    return Store(name, engine, facts, places)


def _shared(tokens: list[int], apart: str, seen: list[tuple[str, list[int]]]) -> int:
    """Return how many tokens of whole blocks, but the last, one of those seen begins with."""
    most = 0
    for name, other in seen:
        same = 0
        while same < min(len(tokens) - 1, len(other)) and tokens[same] == other[same]:
            same += 1
        if name == apart:
            most = max(most, same // BLOCK_TOKENS * BLOCK_TOKENS)
    return most


def main() -> None:
    engine = FakeEngine(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        reply = getattr(engine, command.pop("do"))(**command)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
