"""Brings a leased prefix into the caller's memory, each run of blocks by its route.

`LocalLoader` copies from mapped memory and reads segments by itself; `RemoteLoader` has the
daemon send the bytes. Which bytes count is decided here: those copied while the lease held, and
those whose checksum is right.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd_client.buffers import Buffers, copy_all
from tierd_client.connection import Connection, Opened
from tierd_client.memory import Refused
from tierd_client.placement import PlacedRun
from tierd_client.segments import SegmentReader
from tierd_proto.v1 import tierd_pb2 as pb


@dataclass(slots=True)
class RouteUse:
    """What one route delivered to one request."""

    blocks: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Delivery:
    """What arrived so far: intervals of blocks, by route, and why it ended early if it did."""

    intervals: list[tuple[int, int]] = field(default_factory=list)
    routes: dict[str, RouteUse] = field(default_factory=dict)
    cut: str = ""

    def add(self, first: int, count: int, route: str, size: int, seconds: float) -> None:
        if count:
            self.intervals.append((first, count))
            use = self.routes.setdefault(route, RouteUse())
            use.blocks += count
            use.bytes += size
            use.seconds += seconds

    def prefix(self) -> int:
        """Return how many blocks from the first on have arrived."""
        length = 0
        for first, count in sorted(self.intervals):
            if first > length:
                break
            length = max(length, first + count)
        return length


@dataclass(frozen=True, slots=True)
class Leased:
    """The lease under which blocks are loaded, what they should be, and until when it matters."""

    lease: int
    fence: int
    keys: Sequence[BlockKey]
    part: int
    until_s: float

    def is_late(self) -> bool:
        """Say whether nobody waits for the bytes any more."""
        return time.monotonic() >= self.until_s


class Loader(Protocol):
    """One way to bring blocks over.

    `load_ready` copies blocks that are in their slots and returns how many of the run, from its
    first, are right; `load_direct` reads blocks that have no slot in mapped memory, and returns
    the indices that are.
    """

    def route(self, tier: int) -> str: ...

    def staged_route(self) -> str: ...

    def load_ready(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int: ...

    def load_direct(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> list[int]: ...


class LocalLoader:
    """Loads over shared memory, and from segment files."""

    def __init__(
        self,
        connection: Connection,
        opened: Opened,
        layout: LayoutSpec,
        background: ThreadPoolExecutor,
        helpers: ThreadPoolExecutor,
    ) -> None:
        assert connection.memory is not None
        self._connection = connection
        self._memory = connection.memory
        self._opened = opened
        self._layout = layout
        self._background = background
        self.helpers = helpers

    def staged_route(self) -> str:
        """Return the name of the route of blocks that land in the entry tier first."""
        return f"{self._connection.tiers[self._connection.entry + 1]}-staged"

    def route(self, tier: int) -> str:
        """Return the name of the route of blocks in `tier`, for statistics."""
        name = self._connection.tiers[tier]
        return name if self._connection.mapped[tier] else f"{name}-direct"

    def arena(self, tier: int) -> Any:
        """Return the mapped slots of a tier."""
        return self._memory.arena(self._opened.number, tier)

    def holds(self, leased: Leased) -> bool:
        """Say whether what was read under a lease until now is right."""
        return self._memory.holds(leased.fence, leased.lease)

    def touch_regions(self, tier: int, slot: int, count: int) -> Any:
        """Return the arena, and have the regions of these slots mapped in the background."""
        arena = self.arena(tier)
        region_slots = self._opened.region_slots[tier]
        if not hasattr(arena, "is_cuda"):
            for region in range(slot // region_slots, (slot + count - 1) // region_slots + 1):
                if not arena.has_populated(region):
                    self._background.submit(arena.populate, region, region_slots)
        return arena

    def load_ready(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        """Copy neighbouring slots, in one go where both sides are contiguous."""
        arena = self.touch_regions(run.tier, run.slot, run.count)
        if hasattr(arena, "is_cuda"):
            return self._load_cuda(arena, run, leased, buffers)
        layout = self._layout
        stride = arena.slot_bytes
        start = arena.address + run.slot * stride + leased.part * layout.part_stride_bytes
        copies = buffers.copies_from(run.first, start, stride, run.count)
        copy_all(copies, self.helpers)
        return run.count if self.holds(leased) else 0

    def load_direct(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> list[int]:
        """Read slots from their segments with O_DIRECT, neighbours together, and verify each."""
        region_slots = self._opened.region_slots[run.tier]
        reader = self._reader(leased.part)
        pieces = []
        first, end = run.first, run.first + run.count
        while first < end:
            in_region = region_slots - (run.slot + first - run.first) % region_slots
            count = min(reader.piece_slots, in_region, end - first)
            pieces.append(run.part(first, count))
            first += count
        done = self.helpers.map(lambda piece: self._read_piece(piece, leased, buffers), pieces)
        return [index for indices in done for index in indices]

    def _reader(self, part: int) -> SegmentReader:
        return self._connection.reader(self._layout, part)

    def _read_piece(self, piece: PlacedRun, leased: Leased, buffers: Buffers) -> list[int]:
        """Read neighbouring slots of one region; return the blocks that are right."""
        if leased.is_late():
            return []
        faults: list[str] = []
        for _ in range(2):
            faults = self._try_piece(piece, leased, buffers)
            if not any(faults):
                break
            # The region may have been given back and lent anew since its file was opened.
            region = piece.slot // self._opened.region_slots[piece.tier]
            self._memory.forget_segment(self._opened.number, piece.tier, region)
        if not self.holds(leased):
            return []
        wrong = [piece.first + at for at, fault in enumerate(faults) if fault]
        for index in wrong:
            report = pb.ReadFailed(lease=leased.lease, index=index)
            self._connection.stream.tell(read_failed=report)
        return [piece.first + at for at, fault in enumerate(faults) if not fault]

    def _try_piece(self, piece: PlacedRun, leased: Leased, buffers: Buffers) -> list[str]:
        region, first = divmod(piece.slot, self._opened.region_slots[piece.tier])
        blocks = range(piece.first, piece.first + piece.count)
        keys = [leased.keys[index] for index in blocks]
        targets = [buffers.address(index) for index in blocks]
        try:
            segment = self._memory.segment(self._opened.number, piece.tier, region)
            return self._reader(leased.part).read(segment, first, keys, targets)
        except (OSError, Refused) as error:
            return [str(error) or type(error).__name__] * piece.count

    def _load_cuda(self, arena: Any, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        import torch

        layout = self._layout
        start = leased.part * layout.part_stride_bytes
        for index in range(run.count):
            slot = arena.slot(run.slot + index, self._opened.region_slots[run.tier])
            target = torch.frombuffer(buffers.view(run.first + index), dtype=torch.uint8)
            target.copy_(slot[start : start + layout.part_bytes])
        return run.count if self.holds(leased) else 0


class RemoteLoader:
    """Has the daemon send the bytes, over the network."""

    def __init__(self, connection: Connection, layout: LayoutSpec) -> None:
        self._connection = connection
        self._layout = layout

    def staged_route(self) -> str:
        """Return the name of the only route there is."""
        return "remote"

    def route(self, tier: int) -> str:
        """Return the name of the only route there is."""
        return "remote"

    def load_ready(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        """Receive blocks until the run or the stream ends."""
        return self._receive(run, leased, buffers)

    def load_direct(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> list[int]:
        """Receive blocks that the daemon reads from the medium for us."""
        return list(range(run.first, run.first + self._receive(run, leased, buffers)))

    def _receive(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        request = pb.ReadRequest(
            session=self._connection.session,
            lease=leased.lease,
            first=run.first,
            blocks=run.count,
            part=leased.part,
        )
        received = 0
        try:
            remaining_s = max(0.0, leased.until_s - time.monotonic())
            for chunk in self._connection.stream.stub.Read(request, timeout=remaining_s):
                view = buffers.view(chunk.index)
                view[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
                received += len(chunk.data)
        except (grpc.RpcError, ValueError):  # ValueError: the channel is closed.
            pass  # What has come whole counts; the rest is a miss.
        return received // self._layout.part_bytes
