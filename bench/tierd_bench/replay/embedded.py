"""A daemon for the length of one replay: a real one, in a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tierd.core.errors import DaemonUnreachable, TierdError
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import slot_stride_bytes
from tierd.core.units import PAGE_BYTES, GiB, MiB, round_up
from tierd_client import connect

START_S: Final = 20.0
STOP_S: Final = 30.0
_LOOK_S: Final = 0.25
_REGION_BYTES_MAX: Final = 64 * MiB
_REGIONS_WANTED: Final = 16
_SAID_LINES: Final = 12


@dataclass(eq=False)
class DaemonFailed(TierdError):
    """The embedded daemon did not start, or ended by itself. `said` is the end of its log."""

    what: str
    said: str

    def __str__(self) -> str:
        return f"the embedded daemon {self.what}" + (f":\n{self.said}" if self.said else "")


@dataclass(frozen=True, slots=True)
class EmbeddedSizes:
    """Bytes of each tier; 0 leaves a tier out, except for the host's."""

    device: int = 0
    host: int = 2 * GiB
    disk: int = 8 * GiB

    def region_bytes(self, layout: LayoutSpec) -> int:
        """Return a size of regions so small that every tier has several."""
        smallest = min(size for size in (self.device, self.host, self.disk) if size)
        slot = slot_stride_bytes(layout) + PAGE_BYTES
        region = max(min(smallest // _REGIONS_WANTED, _REGION_BYTES_MAX), slot)
        return round_up(region, PAGE_BYTES)

    def settings(self, layout: LayoutSpec) -> list[str]:
        """Return them as settings."""
        return [
            f"tiers.region_bytes={self.region_bytes(layout)}",
            f"tiers.device.bytes={self.device}",
            f"tiers.host.bytes={self.host}",
            f"tiers.disk.bytes={self.disk}",
        ]


class EmbeddedDaemon:
    """A running daemon, which ends with the replay."""

    def __init__(self, address: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.address: Final = address
        self._process: Final = process
        self._log: Final = log

    def await_start(self) -> None:
        """Return when it answers.

        Raises:
            DaemonFailed: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                connect(self.address, wait_s=_LOOK_S).close()
            except DaemonUnreachable:
                self.check()
            else:
                return
        raise DaemonFailed(f"did not answer within {START_S:.0f} s", self._said())

    def check(self) -> None:
        """Return if it is running.

        Raises:
            DaemonFailed: it is not.
        """
        code = self._process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise DaemonFailed(how, self._said())

    def stop(self) -> None:
        """End it as a service manager would, and by force only if it does not."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _said(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-_SAID_LINES:])


@contextmanager
def embedded_daemon(
    settings: Sequence[str], directory: Path | None = None, options: Sequence[str] = ()
) -> Iterator[EmbeddedDaemon]:
    """Run a daemon with `settings` (`key=value`) and `options`, and stop it at the end.

    Its blocks on disk go to `directory` and stay there; without one they go with the daemon.

    Raises:
        DaemonFailed: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="tierd-replay-") as temporary:
        place = Path(temporary)
        blocks = directory.absolute() if directory else place / "blocks"
        blocks.mkdir(parents=True, exist_ok=True)
        address = str(place / "tierd.sock")
        own = [f"listen.unix={address}", f"tiers.disk.directories={blocks}"]
        with (place / "log").open("w+b") as log:
            process = _start([*own, *settings], options, log)
            daemon = EmbeddedDaemon(address, process, log)
            try:
                daemon.await_start()
                yield daemon
            finally:
                daemon.stop()


def _start(
    settings: Sequence[str], options: Sequence[str], log: IO[bytes]
) -> "subprocess.Popen[bytes]":
    overrides = [part for setting in settings for part in ("--set", setting)]
    # However the replay ends, its daemon ends too.
    own = ["serve", "--stop-with", str(os.getpid()), *options]
    command = [sys.executable, "-m", "tierd.cli", *own, *overrides]
    # A session of its own, so that Ctrl-C ends the replay first and the daemon after it.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
