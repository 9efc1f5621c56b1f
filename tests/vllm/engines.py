"""Engines as processes: `Engine` starts one and tells it what to do (see `tests.vllm.child`)."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]

ANSWER_S: Final = 120.0
"""How long an engine may take to do one thing that it is told."""

BLOCK_TOKENS: Final = 32
"""Of an engine's block: the smallest that vLLM has on a CPU."""

ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "0-1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PATH": "/usr/bin:/bin",
}


def environment(python: Path) -> dict[str, str]:
    """Return the environment variables for an engine. vLLM keeps what it finds out of models."""
    return {**ENVIRONMENT, "VLLM_CACHE_ROOT": str(python.parents[1] / "cache")}


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, perhaps for the LoRA adapter in a directory, which is loaded anew `in_place`."""

    id: str
    prompt: Sequence[int]
    max_tokens: int = 8
    salt: str = ""
    adapter: str = ""
    in_place: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "salt": self.salt,
            "adapter": self.adapter,
            "in_place": self.in_place,
        }


@dataclass(frozen=True, slots=True)
class Made:
    """What an engine made of a request: the tokens, and for each step the best logprobs."""

    tokens: tuple[int, ...]
    logprobs: tuple[dict[str, float], ...]
    cached: int
    finish: str


class Garage:
    """Starts engines: a process of the environment `python` that has vLLM, which forks them.

    `variables` are more of the environment's, or others.
    """

    def __init__(self, python: Path, log: Path, **variables: str) -> None:
        self._log = log
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as said:
            self._process = subprocess.Popen(
                [str(python), "-X", "faulthandler", "-m", "tests.vllm.child"],
                stdin=theirs.fileno(),
                stdout=said,
                stderr=said,
                cwd=ROOT,
                env={**environment(python), **variables},
            )

    def start(self, log: Path) -> tuple[int, socket.socket]:
        """Start a process for an engine, and return its id and the way to talk to it."""
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as said:
            socket.send_fds(self._ours, [b"fork"], [theirs.fileno(), said.fileno()])
        return self._answer(), ours

    def wait(self, pid: int) -> int:
        """Wait for the end of a process that `start` started, and return its exit code."""
        self._ours.send(b"%d" % pid)
        return self._answer()

    def end(self) -> None:
        self._ours.close()
        assert self._process.wait(60) == 0, self._log.read_text()

    def _answer(self) -> int:
        told = self._ours.recv(64)
        assert told, self._log.read_text()
        return int(told)


class Engine:
    """A vLLM engine in a process of its own."""

    def __init__(
        self,
        garage: Garage,
        model: Path,
        log: Path,
        connector: Mapping[str, Any] | None,
        **more: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "model": str(model),
            "dtype": "float32",
            "block_size": BLOCK_TOKENS,
            "enforce_eager": True,
            "disable_log_stats": True,
            "max_model_len": 1024,
            "max_num_batched_tokens": 1024,
            "max_num_seqs": 16,
            "kv_cache_memory_bytes": 32 << 20,
            "prefix_caching_hash_algo": "sha256_cbor",
            **more,
        }
        if connector is not None:
            settings["kv_transfer_config"] = dict(connector)
        self._garage = garage
        self._log = log
        self.pid, channel = garage.start(log)
        with channel:
            channel.settimeout(ANSWER_S)
            self._lines = channel.makefile("rw")
        self._send(settings)

    def tell(self, name: str, **arguments: Any) -> Any:
        """Have it do something, and return its answer."""
        self.ask(name, **arguments)
        return self.answer()

    def ask(self, name: str, **arguments: Any) -> None:
        """Have it do something, and wait for nothing."""
        self._send([name, arguments])

    def answer(self) -> Any:
        line = self._lines.readline()
        if not line:
            self._ended()
            pytest.fail(self.log())
        return json.loads(line)

    def log(self) -> str:
        return self._log.read_text()[-30000:]

    def ready(self) -> "Engine":
        assert self.answer() == "ready"
        return self

    def add(self, *requests: Request) -> None:
        self.tell("add", requests=[request.as_json() for request in requests])

    def run(self, *requests: Request) -> dict[str, Made]:
        """Hand in `requests`, finish all there are, and return what came of them by id."""
        self.add(*requests)
        return self.finish()

    def finish(self) -> dict[str, Made]:
        """Finish what was handed in."""
        self.ask("run")
        return self.made()

    def made(self) -> dict[str, Made]:
        """Return the answer to "run", which was asked for before."""
        return {
            id: Made(tuple(one["tokens"]), tuple(one["logprobs"]), one["cached"], one["finish"])
            for id, one in self.answer().items()
        }

    def close(self) -> None:
        """End it in good order."""
        self.tell("close")
        assert self._ended() == 0, self.log()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def end(self) -> None:
        """Kill it, if it was not ended."""
        if not self._lines.closed:
            self.kill()

    def _ended(self) -> int:
        """Wait for its end, and return its exit code."""
        self._lines.close()
        return self._garage.wait(self.pid)

    def _send(self, what: Any) -> None:
        self._lines.write(json.dumps(what) + "\n")
        self._lines.flush()
