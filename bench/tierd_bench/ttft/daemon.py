"""A daemon with a disk that can be restarted, so that nothing is left in its host tier."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from tierd.core.units import GiB, MiB
from tierd_bench.bench.stage import NotMeasured
from tierd_bench.replay.embedded import EmbeddedDaemon
from tierd_client import Client, connect
from tierd_proto.v1 import tierd_pb2 as pb

_HOST_BYTES: Final = 1 * GiB
_DISK_BYTES: Final = 8 * GiB
_REGION_BYTES: Final = 32 * MiB
_PATIENCE_S: Final = 30.0
_LOOK_S: Final = 0.02
_CALM_LOOKS: Final = 10


class Daemon:
    """A daemon on a directory, with a client of its own that watches it."""

    def __init__(self, directory: Path) -> None:
        """Start it on a new `directory`.

        Raises:
            DaemonFailed: it did not start.
        """
        directory.mkdir()
        self.address: Final = str(directory / "t.sock")
        self._log = (directory / "log").open("w+b")
        self._settings: Final = [
            f"listen.unix={self.address}",
            f"tiers.region_bytes={_REGION_BYTES}",
            f"tiers.host.bytes={_HOST_BYTES}",
            f"tiers.disk.bytes={_DISK_BYTES}",
            f"tiers.disk.directories={directory / 'blocks'}",
            # Nobody else reads while an engine waits for blocks.
            "tiers.disk.scrub_bytes_per_s=0",
        ]
        self._client: Client | None = None
        self._start()

    def settle(self) -> None:
        """Return when nobody publishes any more.

        Raises:
            NotMeasured: that takes too long.
        """
        seen: list[int] = []

        def same(status: pb.StatusReply) -> bool:
            seen.append(sum(each.blocks_published for each in status.namespaces))
            calm = len(seen) >= _CALM_LOOKS and len(set(seen[-_CALM_LOOKS:])) == 1
            return calm and not status.leases

        self._await("its clients to publish all", same)

    def restart(self) -> None:
        """Stop and start it. On return it has blocks on disk only, and its clients are back.

        Raises:
            NotMeasured: blocks were not written, or clients do not come back.
        """
        self.settle()
        self._await("the last block to be written", lambda status: not _waiting_writes(status))
        sessions = self._status().sessions
        self._stop()
        self._start()
        calm = 0

        def back(status: pb.StatusReply) -> bool:
            nonlocal calm
            # The one that looked whether it has started is counted until it is known to be gone.
            calm = calm + 1 if status.sessions >= sessions else 0
            return calm >= _CALM_LOOKS

        self._await("its clients to come back", back)
        if self._blocks("host") or not self._blocks("disk"):
            raise NotMeasured("blocks were to be on disk only after a restart, and are not")

    def close(self) -> None:
        """Stop it."""
        self._stop()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        own = ["-m", "tierd.cli", "serve", "--stop-with", str(os.getpid())]
        overrides = [f"--set={setting}" for setting in self._settings]
        command = [sys.executable, *own, *overrides]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._daemon = EmbeddedDaemon(self.address, process, self._log)
        self._daemon.await_start()
        self._client = connect(self.address, wait_s=_PATIENCE_S, name="ttft")

    def _stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self._daemon.stop()

    def _status(self) -> pb.StatusReply:
        assert self._client is not None
        return self._client.status()

    def _blocks(self, tier: str) -> int:
        return sum(each.blocks for each in self._status().tiers if each.name == tier)

    def _await(self, what: str, holds: Callable[[pb.StatusReply], bool]) -> None:
        until_s = time.monotonic() + _PATIENCE_S
        while not holds(self._status()):
            if time.monotonic() > until_s:
                raise NotMeasured(f"waited {_PATIENCE_S:.0f} s for {what}")
            time.sleep(_LOOK_S)


def _waiting_writes(status: pb.StatusReply) -> int:
    return sum(tier.write_queue for tier in status.tiers)
