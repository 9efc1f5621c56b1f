"""Two routes off one disk, slowed down so that each is a resource of its own.

The daemon's reads are slowed down in the daemon (`tierd serve --throttle-disk`), this process's
own reads here. The bytes come from the real disk on both, verified as ever.
"""

import threading
import time
from dataclasses import dataclass
from typing import Final

from tierd.core.addresses import parse_address
from tierd.core.layouts import LayoutSpec
from tierd.core.pace import Pace
from tierd.core.units import NS_PER_S
from tierd_client import Client
from tierd_client.buffers import Buffers
from tierd_client.connection import Connection, Opened
from tierd_client.loader import Gate, Leased, Loader, LocalLoader, PieceRead
from tierd_client.placement import PlacedRun

_REACH_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Throttle:
    """How fast each of the two routes reads the disk, in bytes a second."""

    staged: int
    direct: int

    def __str__(self) -> str:
        return f"throttled to {self.staged / 1e6:g} MB/s staged, {self.direct / 1e6:g} direct"


class _Queue:
    """One disk for all direct reads of a client. Concurrency: any thread."""

    def __init__(self, bytes_per_s: int) -> None:
        self._pace = Pace(bytes_per_s)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return self._pace.bytes

    def book(self, size: int) -> int:
        with self._lock:
            return self._pace.book(size, time.monotonic_ns())


class _ThrottledLoader(LocalLoader):
    block_bytes: int
    queue: _Queue

    def read_piece(
        self, piece: PlacedRun, leased: Leased, buffers: Buffers, gate: Gate
    ) -> PieceRead:
        """Read as ever, and wait until a slower disk would have the bytes, too."""
        over_ns = self.queue.book(piece.count * self.block_bytes)
        read = super().read_piece(piece, leased, buffers, gate)
        time.sleep(max(0, over_ns - time.monotonic_ns()) / NS_PER_S)
        return read


class ThrottledClient(Client):
    """A client whose own reads of the disk share `bytes_per_s`."""

    def __init__(self, address: str, bytes_per_s: int) -> None:
        self._queue = _Queue(bytes_per_s)
        super().__init__(parse_address(address), _REACH_S, "throttled")

    @property
    def bytes_read(self) -> int:
        """How much was read so far."""
        return self._queue.bytes

    def loader(self, connection: Connection, opened: Opened, layout: LayoutSpec) -> Loader:
        """Return what brings blocks over, with reads that wait."""
        loader = _ThrottledLoader(connection, opened, layout, self._threads)
        loader.block_bytes = layout.block_bytes
        loader.queue = self._queue
        return loader
