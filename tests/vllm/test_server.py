"""The server as users run it: what it knew before it was restarted it still knows."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, TypeAlias

import psutil
import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import ROUNDING, hit_max, prompt, tierd
from tests.vllm.conftest import Model, StartDaemon, roomy_daemon
from tests.vllm.engines import BLOCK_TOKENS, ROOT, Request, environment
from tests.vllm.models import MODEL_TOKENS

START_S: Final = 150.0

Answer: TypeAlias = tuple[list[str], list[float], int]


StartServer: TypeAlias = Callable[[dict[str, Any]], "Server"]


class _Local(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Server:
    """vLLM's OpenAI server in a process of its own, with an engine in another."""

    def __init__(self, python: Path, model: Path, connector: dict[str, Any], place: Path) -> None:
        self._path = place / "s"
        self._path.unlink(missing_ok=True)
        self.log = place / "log"
        command = [
            *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model), "--served-model-name", "tiny", "--uds", str(self._path)),
            *("--dtype", "float32", "--block-size", str(BLOCK_TOKENS), "--enforce-eager"),
            *("--max-model-len", str(MODEL_TOKENS), "--kv-cache-memory-bytes", str(32 << 20)),
            *("--enable-prompt-tokens-details", "--kv-transfer-config", json.dumps(connector)),
        ]
        variables = {**environment(python), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with self.log.open("ab") as said:
            self._process = subprocess.Popen(
                command, stdout=said, stderr=said, cwd=ROOT, env=variables, start_new_session=True
            )
        eventually(self._answers, within_s=START_S)

    def complete(self, request: Request) -> Answer:
        """Return the tokens of an answer, their logprobs, and how much was cached."""
        asked = {
            "model": "tiny",
            "prompt": list(request.prompt),
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 1,
        }
        told = json.loads(self._ask("POST", "/v1/completions", json.dumps(asked)))
        logprobs = told["choices"][0]["logprobs"]
        details = told["usage"]["prompt_tokens_details"] or {}
        return logprobs["tokens"], logprobs["token_logprobs"], details.get("cached_tokens") or 0

    def stop(self) -> None:
        """End it in good order; its engine must be gone then, too."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        self._process.wait(60)
        _, left = psutil.wait_procs(processes, 60)
        assert not left, self.log.read_text()[-8000:]

    def kill(self) -> None:
        """End it and its engine at once. If only the server is killed, vLLM's engine runs on."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-8000:]
        try:
            self._ask("GET", "/health")
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = _Local(self._path)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            told = reply.read()
        finally:
            connection.close()
        assert reply.status == 200, told
        return told


@pytest.fixture
def start_server(vllm_python: Path, model: Model, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers of a tiny model."""
    servers: list[Server] = []

    def start(connector: dict[str, Any]) -> Server:
        servers.append(Server(vllm_python, model("llama"), connector, tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def _same(one: Answer, other: Answer) -> None:
    assert one[0] == other[0]
    assert all(abs(a - b) < ROUNDING for a, b in zip(one[1], other[1], strict=True))


def _hit_tokens(daemon: Daemon) -> int:
    return sum(sum(each.tokens_hit) for each in daemon.status().namespaces)


@pytest.mark.timeout(2 * START_S + 180)
def test_a_server_goes_on_where_the_one_before_was_stopped(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    """And it outlives the daemon, which is killed while an answer is generated."""
    daemon = roomy_daemon(start_daemon)
    connector = tierd(daemon.address)
    # What users type: the name is known by tierd's entry point.
    del connector["kv_connector_module_path"]
    requests = [Request(str(at), prompt(at, 300 + 50 * at)) for at in range(2)]
    long = Request("long", prompt(5, 600), max_tokens=1200)
    server = start_server(connector)
    computed = [server.complete(request) for request in requests]
    whole = server.complete(long)
    assert [cached for _, _, cached in (*computed, whole)] == [0, 0, 0]
    server.stop()
    server = start_server(connector)
    for request, first in zip(requests, computed, strict=True):
        answer = server.complete(request)
        assert answer[2] == hit_max(request)
        _same(answer, first)
    before = _hit_tokens(daemon)
    with ThreadPoolExecutor(1) as thread:
        answering = thread.submit(server.complete, long)
        eventually(lambda: _hit_tokens(daemon) > before or answering.done())
        daemon.kill()
        assert not answering.done()
        _same(answering.result(), whole)
    _same(server.complete(Request("away", requests[0].prompt)), computed[0])
    daemon.start()
    server.kill()
    eventually(lambda: not daemon.status().leases)
