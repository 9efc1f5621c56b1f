"""Daemons as processes: started on a directory of their own, and gone afterwards."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from threading import Event
from time import monotonic
from typing import Final

from tierd.core.units import KiB
from tierd_client import Client, connect
from tierd_proto.v1 import tierd_pb2 as pb

PATIENCE_S: Final = 30.0
"""How long a test waits for what must happen, on a machine with much else to do."""

REGION_BYTES: Final = 64 * KiB

_SETTINGS: Final = {
    "tiers.region_bytes": REGION_BYTES,
    "tiers.host.bytes": 4096 * KiB,
    "tiers.host.watermark_high_ratio": 1.0,
    "tiers.host.watermark_low_ratio": 1.0,
    "shutdown.deadline_s": 20.0,
}


class Daemon:
    """A daemon process with a directory that outlives it. Settings are as in `tierd.toml`.

    The directory's path is short, because a socket's path must be. A daemon that has stopped
    must have said so with exit code 0 and no traceback.
    """

    def __init__(self, disk_bytes: int = 0, **settings: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tierd-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.address = str(self.directory / "t.sock")
        self.disk = self.directory / "disk"
        self.log = self.directory / "log"
        given = {key.replace("__", "."): value for key, value in settings.items()}
        self.settings: dict[str, object] = {**_SETTINGS, "listen.unix": self.address, **given}
        if disk_bytes:
            self.settings |= {"tiers.disk.bytes": disk_bytes, "tiers.disk.directories": self.disk}
            # A test that damages a block says itself who finds that out.
            self.settings.setdefault("tiers.disk.scrub_bytes_per_s", 0)
        self.listens: list[str] = []
        self.options: list[str] = []
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def tcp(self) -> str:
        """Where clients on other hosts reach it."""
        return self.listens[1]

    def start(self) -> None:
        """Start it on its directory, and return when it listens."""
        with self.log.open("ab") as log:
            command = [*serve_command(self.settings), *self.options]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        said = self._process.stdout.read1().decode()  # type: ignore[attr-defined]
        self.listens = [line.removeprefix("tierd listens on ") for line in said.splitlines()]
        assert self.listens, self.log.read_text()

    def stop(self) -> None:
        """Ask it to stop, and return when it has."""
        self._process.send_signal(signal.SIGTERM)
        self._reap()
        assert self._process.returncode == 0, self.log.read_text()

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._reap()

    def restart(self) -> None:
        self.stop()
        self.start()

    def client(self, address: str = "") -> Client:
        return connect(address or self.address, wait_s=PATIENCE_S)

    def status(self) -> pb.StatusReply:
        with self.client() as client:
            return client.status()

    def segments(self) -> list[Path]:
        """Return its segment files."""
        return sorted(self.disk.glob("*.segment"))

    def end(self) -> None:
        """Leave nothing behind, and look that all went well."""
        if self._process.poll() is None:
            self.stop()
        else:
            self._reap()
        told = self.log.read_text()
        rmtree(self.directory)
        assert "Traceback" not in told, told

    def _reap(self) -> None:
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            raise
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()


def serve_command(settings: dict[str, object]) -> list[str]:
    """Return the command that runs a daemon."""
    pairs = [f"--set={key}={value}" for key, value in settings.items()]
    return [sys.executable, "-X", "faulthandler", "-m", "tierd.cli", "serve", *pairs]


def eventually(holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Return as soon as `holds`. What must happen promptly says within which time."""
    until_s = monotonic() + within_s
    pause = Event()
    while not holds():
        assert monotonic() < until_s, "it did not happen in time"
        pause.wait(0.02)


def names_in_shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))
