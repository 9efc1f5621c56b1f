"""Engines in processes of their own, one question at a time."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tierd.core.errors import TierdError

_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    # Threads that spin while they wait would take the cores from the engine whose turn it is.
    "OMP_WAIT_POLICY": "PASSIVE",
}
# What vLLM needs on CPU, and nothing it would look for on the network. See its documentation.
_VLLM: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
_SAID_LINES: Final = 12
_STOP_S: Final = 20.0
_REMEDY: Final = (
    "run `make test-vllm` once, which makes .venv-vllm, or name another with --python (for LMCache "
    "--lmcache-python)"
)
_MEMORY: Final = "if memory ran short, free some 12 GB, or leave stores out with --without"


@dataclass(eq=False)
class EngineFailed(TierdError):
    """An engine did not start, ended, or did not do as it was told. `said` ends its log."""

    engine: str
    what: str
    said: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        said = f"\n{self.said}" if self.said else ""
        return f"{self.engine} {self.what}" + (f": {self.remedy}" if self.remedy else "") + said


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine answered, how soon, and how much of the prompt it did not compute.

    `tokens` and `logprobs` are of the answer, one each a token.
    """

    seconds: float
    reused_tokens: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What prompts have to keep to, the KV of a token, and the engine's name and version.

    Its own cache finds whole blocks of `block_tokens`, never the last token of a prompt.
    """

    tokens_max: int
    vocabulary: int
    block_tokens: int
    token_bytes: int
    engine: str

    def reusable_tokens(self, prompt_tokens: int) -> int:
        """Return how much of a prompt that was asked before its own cache finds."""
        return (prompt_tokens - 1) // self.block_tokens * self.block_tokens


def vllm_command(python: Path, cache_gib: int) -> list[str]:
    """Return what starts vLLM with so large a cache of its own.

    Raises:
        EngineFailed: `python` is not there.
    """
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    own = {"VLLM_CPU_KVCACHE_SPACE": str(cache_gib), "VLLM_CPU_OMP_THREADS_BIND": cores}
    return _command("vLLM", python, "tierd_bench.ttft.child_vllm", {**_OFFLINE, **_VLLM, **own})


def transformers_command(python: Path) -> list[str]:
    """Return what starts a model of transformers.

    Raises:
        EngineFailed: `python` is not there.
    """
    return _command("transformers", python, "tierd_bench.ttft.child_transformers", _OFFLINE)


class Engine:
    """One engine's process. Its KV cache holds nothing of earlier runs."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        """Start the process, whose output goes to `log`."""
        self.name: Final = name
        self._log: Final = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                # Ctrl-C ends the bench first, which then ends the engine.
                start_new_session=True,
            )

    def load(
        self, model: Path, tokens_max: int, connector: Mapping[str, Any] | None
    ) -> EngineFacts:
        """Load `model` for sequences of up to `tokens_max`, fewer if it is made for fewer.

        `connector` is what the engine's module takes: vLLM's KV transfer configuration, or for
        transformers a daemon's address; None for its own cache alone.
        """
        reply = self._do(do="start", model=str(model), tokens_max=tokens_max, connector=connector)
        return EngineFacts(**reply)

    def ask(self, prompt: Sequence[int], answer_tokens: int, salt: str = "") -> Answer:
        """Return the answer to `prompt`, of so many tokens.

        KV is shared only between prompts with the same `salt`.
        """
        reply = self._do(do="ask", tokens=list(prompt), answer_tokens=answer_tokens, salt=salt)
        tokens, logprobs = zip(*reply["answer"], strict=True)
        return Answer(reply["first_s"], reply["reused_tokens"], tokens, logprobs)

    def forget(self) -> None:
        """Empty its own cache, once what is being saved has been."""
        self._do(do="forget")

    def forget_connector_too(self) -> None:
        """Empty its own cache and what its connector holds in memory."""
        self._do(do="forget_connector_too")

    def close(self) -> None:
        """End the process. Safe to call twice."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, **command: Any) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(command).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            code = process.wait(_STOP_S)
            if code < 0:
                what, remedy = f"was killed by signal {-code}", _MEMORY
            else:
                what, remedy = f"ended with code {code}", _REMEDY
            raise EngineFailed(self.name, what, self._said(), remedy)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise EngineFailed(self.name, reply["error"], self._said())
        return reply

    def _said(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_SAID_LINES:])


def _command(name: str, python: Path, module: str, variables: Mapping[str, str]) -> list[str]:
    if not python.exists():
        raise EngineFailed(name, f"has no interpreter at {python}", remedy=_REMEDY)
    pairs = [f"{key}={value}" for key, value in variables.items()]
    return ["env", *pairs, str(python), "-m", module]
