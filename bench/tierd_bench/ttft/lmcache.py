"""LMCache's server, in memory and below that in files."""

import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Final, Self
from urllib.error import URLError

from tierd_bench.ttft.engines import EngineFailed

_HOST_GIB: Final = 1
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_LOOK_S: Final = 0.2
_SETTLED_LOOKS: Final = 3
_REMEDY: Final = (
    "install lmcache 0.5.6 with --no-deps beside vLLM, name that environment's interpreter with "
    "--lmcache-python, or leave it out with --without lmcache"
)
_VARIABLES: Final = {"LMCACHE_TRACK_USAGE": "false", "DO_NOT_TRACK": "1"}


class LMCacheServer:
    """`lmcache server` with a tier of files, read and written past the page cache."""

    def __init__(self, python: Path, directory: Path) -> None:
        """Start it on `directory`, and return when it answers.

        Raises:
            EngineFailed: it does not.
        """
        if not python.exists():
            raise EngineFailed("LMCache", f"has no interpreter at {python}", remedy=_REMEDY)
        self._files: Final = directory / "files"
        self._files.mkdir(parents=True)
        self._log: Final = directory / "log"
        self._port, self._http_port = _free_port(), _free_port()
        files = {"type": "fs_native", "base_path": str(self._files), "use_odirect": True}
        options = {
            "--host": "127.0.0.1",
            "--port": self._port,
            "--http-port": self._http_port,
            "--l1-size-gb": _HOST_GIB,
            "--eviction-policy": "LRU",
            "--supported-transfer-mode": "auto",
            "--l2-adapter": json.dumps(files),
        }
        pairs = [str(part) for pair in options.items() for part in pair]
        variables = [f"{key}={value}" for key, value in _VARIABLES.items()]
        # Counting what it does costs it time, and takes packages that nothing else needs.
        command = [*variables, str(python), "-m", "lmcache.cli.main", "server"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["env", *command, *pairs, "--disable-observability"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await_start()

    @property
    def connector(self) -> dict[str, Any]:
        """vLLM's KV transfer configuration for it."""
        return {
            "kv_connector": "LMCacheMPConnector",
            "kv_connector_module_path": "lmcache.integration.vllm.lmcache_mp_connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "lmcache.mp.host": "tcp://127.0.0.1",
                "lmcache.mp.port": self._port,
            },
        }

    def settle(self) -> None:
        """Return when it writes no more files."""
        sizes: list[int] = []
        while len(sizes) < _SETTLED_LOOKS or len(set(sizes[-_SETTLED_LOOKS:])) > 1:
            sizes.append(sum(each.stat().st_size for each in self._files.rglob("*.data")))
            time.sleep(_LOOK_S)

    def clear_memory(self) -> None:
        """Leave what it holds in files only."""
        self.settle()
        self._post("/cache/clear")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_start(self) -> None:
        until_s = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/healthcheck").close()
            except URLError:
                if self._process.poll() is None and time.monotonic() < until_s:
                    time.sleep(_LOOK_S)
                    continue
                said = self._log.read_text(errors="replace")[-2000:]
                self.close()
                raise EngineFailed("LMCache", "did not start", said, _REMEDY) from None
            return

    def _post(self, path: str) -> None:
        address = f"http://127.0.0.1:{self._http_port}{path}"
        head = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(address, b"{}", head, method="POST")).close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
