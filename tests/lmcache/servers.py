"""`lmcache server` as a process, and workers that talk to it (see `tests.lmcache.child`)."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from tests.integration.daemons import PATIENCE_S, eventually
from tests.lmcache.shapes import BLOCK_TOKENS, SHAPE

ROOT: Final = Path(__file__).parents[2]

ENVIRONMENT: Final = {
    "LMCACHE_DISABLE_BANNER": "1",
    "LMCACHE_TRACK_USAGE": "false",
    "PATH": "/usr/bin:/bin",
}

_READY: Final = "Application startup complete"


class Server:
    """A server with tierd as its L2; `parameters` are the adapter's."""

    def __init__(self, python: Path, log: Path, parameters: Mapping[str, object]) -> None:
        self._python = python
        self._log = log
        self._workers: list[Worker] = []
        self._adapter = {
            "type": "plugin",
            "module_path": "tierd_client.engines.lmcache",
            "class_name": "TierdL2Adapter",
            "adapter_params": parameters,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it serves or has ended."""
        self._port, self._http_port = _free_port(), _free_port()
        options = {
            "port": self._port,
            "http-port": self._http_port,
            "chunk-size": BLOCK_TOKENS,
            "l1-size-gb": 0.125,
            "eviction-policy": "LRU",
            "supported-transfer-mode": "auto",
            "l2-adapter": json.dumps(self._adapter),
        }
        command = [f"--{name}={value}" for name, value in options.items()]
        said_before = self.log().count(_READY)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._python), "-m", "lmcache.cli.main", "server", *command],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=ENVIRONMENT,
            )
        eventually(
            lambda: self.log().count(_READY) > said_before or not self.is_running,
            2 * PATIENCE_S,
        )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def worker(self, shape: str = SHAPE) -> "Worker":
        """Start a worker whose KV has this shape, in a process of its own."""
        worker = Worker(self._python, self._log, f"tcp://localhost:{self._port}", shape)
        self._workers.append(worker)
        return worker

    def forget(self) -> None:
        """Empty its own memory, L1."""
        body = b"{}"
        url = f"http://localhost:{self._http_port}/cache/clear"
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(url, body, headers), timeout=PATIENCE_S) as reply:
            assert reply.status == 200, reply.read()

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)

    def end(self) -> None:
        served = self.is_running
        self.stop()
        assert not served or "Traceback" not in self.log(), self.log()


@dataclass(frozen=True, slots=True)
class Loaded:
    """How many chunks a lookup found, and what is then in the worker's memory, as checksums."""

    chunks: int
    sums: tuple[str, ...]


class Worker:
    """What an engine is to the server; see `tests.lmcache.child`."""

    def __init__(self, python: Path, log: Path, url: str, shape: str) -> None:
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [str(python), "-m", "tests.lmcache.child", url, shape],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=ROOT,
                env=ENVIRONMENT,
                text=True,
            )
        self._answer()

    def store(self, sequence: int) -> tuple[str, ...]:
        """Store a sequence; return the checksums of its chunks."""
        answer = self._tell("store", sequence)
        assert answer["ok"], answer
        return tuple(answer["sums"])

    def load(self, sequence: int) -> Loaded:
        """Look a sequence up, and load what was found over zeros."""
        answer = self._tell("load", sequence)
        assert answer["ok"], answer
        return Loaded(answer["chunks"], tuple(answer["sums"]))

    def end(self) -> None:
        self._process.communicate(json.dumps(["close"]) + os.linesep, PATIENCE_S)

    def _tell(self, *command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + os.linesep)
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port: int = taken.getsockname()[1]
        return port
