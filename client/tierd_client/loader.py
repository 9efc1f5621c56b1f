"""Brings a leased prefix into the caller's memory, each run of blocks by its route.

`LocalLoader` copies from mapped memory and reads segments by itself; `RemoteLoader` has the
daemon send the bytes. Which bytes count is decided here: those copied while the lease held, and
those whose checksum is right.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc

from tierd.core.keys import BlockKey
from tierd.core.layouts import Chunk, LayoutSpec
from tierd.core.slots import SlotHeader
from tierd_client.buffers import Buffers, Copy
from tierd_client.connection import Connection, Opened
from tierd_client.memory import MappedArena, Refused
from tierd_client.placement import PlacedRun
from tierd_client.segments import Patch, SegmentReader
from tierd_client.splitting import DIRECT_READS_MAX, Way
from tierd_proto.v1 import tierd_pb2 as pb

_UNHURRIED_S: Final = 1.0
"""Memory that a device writes to cannot be taken back. With less time than this left, reads go to
memory of our own, so that the caller never waits for one."""


@dataclass(slots=True)
class RouteUse:
    """What one route delivered to one request.

    `mechanism` says how bytes that were read past the daemon came: "O_DIRECT"; into a GPU's memory
    "gds", "compat" (kvikio, through memory of the CPU) or "bounced" (so, too, by ourselves).
    """

    blocks: int = 0
    bytes: int = 0
    seconds: float = 0.0
    mechanism: str = ""

    @property
    def rate(self) -> float:
        """Return bytes a second, 0 if there was nothing."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Delivery:
    """What arrived so far: intervals of blocks, by route, and why it ended early if it did.

    `first` is the first block that is to arrive. `why` says how the routes were chosen, and
    `failures` which of them failed, and how.
    """

    first: int = 0
    intervals: list[tuple[int, int]] = field(default_factory=list)
    routes: dict[str, RouteUse] = field(default_factory=dict)
    cut: str = ""
    why: str = ""
    failures: dict[Way, str] = field(default_factory=dict)

    def add(self, first: int, count: int, route: str, size: int, seconds: float) -> None:
        if count:
            self.intervals.append((first, count))
            use = self.routes.setdefault(route, RouteUse())
            use.blocks += count
            use.bytes += size
            use.seconds += seconds

    def prefix(self) -> int:
        """Return how many blocks of the prefix are there now, those before `first` included."""
        length = self.first
        for first, count in sorted(self.intervals):
            if first > length:
                break
            length = max(length, first + count)
        return length


@dataclass(frozen=True, slots=True)
class Leased:
    """The lease under which blocks are loaded, what they should be, and until when it matters.

    It holds for `term_s` at a time. Blocks before `first` the caller has already.
    """

    lease: int
    fence: int
    keys: Sequence[BlockKey]
    part: int
    until_s: float
    term_s: float
    first: int

    def is_late(self) -> bool:
        """Say whether nobody waits for the bytes any more."""
        return time.monotonic() >= self.until_s

    def has_time(self) -> bool:
        """Say whether a read will be over before the deadline, unless the device hangs."""
        return time.monotonic() + _UNHURRIED_S < self.until_s


@dataclass(frozen=True, slots=True)
class PieceRead:
    """What came of one direct read: which blocks are in the caller's memory, and which are not.

    `corrupt` are not what they should be; `unanswered` says why the medium gave none of them.
    `mechanism` is as in `RouteUse`.
    """

    piece: PlacedRun
    right: Sequence[int] = ()
    corrupt: Sequence[int] = ()
    unanswered: str = ""
    mechanism: str = ""


@dataclass(frozen=True, slots=True)
class ChunkFault:
    """Why some layers of a block could not be had: the medium gave no answer, or wrong bytes."""

    cause: str
    unanswered: bool


class Gate:
    """Keeps late bytes out of memory that the caller has back.

    A read that cannot be taken back goes to memory of our own, and is copied on `through` the
    gate, which shuts when the fetch returns. With time to spare it goes `straight` into the
    caller's memory, and is waited for when the gate shuts.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._lock = threading.Condition()
        self._open = True
        self._straight = 0

    def through(self, copies: Sequence[Copy]) -> bool:
        """Make the copies if the gate is open; say whether it was."""
        with self._lock:
            if self._open:
                self._buffers.copy_all(copies, None)
            return self._open

    @contextmanager
    def straight(self, leased: "Leased") -> Iterator[bool]:
        """Say whether there is time to read into the caller's memory, until the context is left."""
        with self._lock:
            may = self._buffers.takes_reads and self._open and leased.has_time()
            self._straight += may
        try:
            yield may
        finally:
            with self._lock:
                self._straight -= may
                self._lock.notify_all()

    def shut(self) -> None:
        """Let nothing more through, and return when nothing reads into the caller's memory."""
        with self._lock:
            self._open = False
            self._lock.wait_for(lambda: not self._straight)


class Threads:
    """The threads of one client: to map memory ahead, to share copies, to read from media.

    They start when they are needed, and end when nobody has this object any more. What they read
    with outlasts a connection: fresh memory is slow.
    """

    def __init__(self) -> None:
        self.background = ThreadPoolExecutor(1, thread_name_prefix="tierd-map")
        self.helpers = ThreadPoolExecutor(4, thread_name_prefix="tierd-helper")
        self.readers = ThreadPoolExecutor(2 * DIRECT_READS_MAX, thread_name_prefix="tierd-read")
        self._lock = threading.Lock()
        self._segment_readers: dict[tuple[bytes, int], SegmentReader] = {}

    def reader(self, layout: LayoutSpec, part: int) -> SegmentReader:
        """Return what reads segments of a layout, always the same one."""
        key = (layout.fingerprint, part)
        with self._lock:
            return self._segment_readers.setdefault(key, SegmentReader(layout, part))

    def prepare(self, layout: LayoutSpec, part: int) -> None:
        """Have the threads of a first read started, and their memory made ready. Not waited for."""
        reader, all_of_them = self.reader(layout, part), threading.Barrier(DIRECT_READS_MAX)
        for _ in range(DIRECT_READS_MAX):
            self.readers.submit(reader.prepare, all_of_them)


class Loader(Protocol):
    """One way to bring blocks over.

    `load_ready` copies blocks that are in mapped slots and returns how many of the run, from its
    first, are right; `read_piece` reads neighbours that are not, at most `piece_blocks`, past the
    daemon where `reads_media`, as the gate allows. `submit` has a thread do it.
    """

    reads_media: bool
    piece_blocks: int

    def submit(self, read: Callable[[], None]) -> None: ...

    def route(self, tier: int) -> str: ...

    def staged_route(self) -> str: ...

    def pieces(self, run: PlacedRun) -> list[PlacedRun]: ...

    def load_ready(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int: ...

    def read_piece(
        self, piece: PlacedRun, leased: Leased, buffers: Buffers, gate: Gate
    ) -> PieceRead: ...


class LocalLoader:
    """Loads over shared memory, and from segment files."""

    reads_media = True

    def __init__(
        self,
        connection: Connection,
        opened: Opened,
        layout: LayoutSpec,
        threads: Threads,
    ) -> None:
        assert connection.memory is not None
        self._connection = connection
        self._memory = connection.memory
        self._opened = opened
        self._layout = layout
        self._threads = threads
        self.piece_blocks = threads.reader(layout, 0).piece_slots

    @property
    def helpers(self) -> ThreadPoolExecutor:
        """Return the threads that share large copies."""
        return self._threads.helpers

    def submit(self, read: Callable[[], None]) -> None:
        """Have a thread read from the media."""
        self._threads.readers.submit(read)

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
                    self._threads.background.submit(arena.populate, region, region_slots)
        return arena

    def _prepare(self, arena: MappedArena, run: PlacedRun, buffers: Buffers) -> None:
        """Have the regions of a run made ready for copies into these buffers."""
        region_slots = self._opened.region_slots[run.tier]
        size = region_slots * arena.slot_bytes
        last = (run.slot + run.count - 1) // region_slots
        for region in range(run.slot // region_slots, last + 1):
            buffers.prepare(arena, arena.address + region * size, size, self._threads.background)

    def load_ready(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        """Copy neighbouring slots, in one go where both sides are contiguous."""
        arena = self.touch_regions(run.tier, run.slot, run.count)
        if hasattr(arena, "is_cuda"):
            return self._load_cuda(arena, run, leased, buffers)
        layout = self._layout
        stride = arena.slot_bytes
        start = arena.address + run.slot * stride + leased.part * layout.part_stride_bytes
        if buffers.is_on_device:
            self._prepare(arena, run, buffers)
        buffers.copy_all(buffers.copies_from(run.first, start, stride, run.count), self.helpers)
        return run.count if self.holds(leased) else 0

    def pieces(self, run: PlacedRun) -> list[PlacedRun]:
        """Cut a run into neighbours of one region, which are one file."""
        region_slots = self._opened.region_slots[run.tier]
        pieces = []
        first, end = run.first, run.first + run.count
        while first < end:
            in_region = region_slots - (run.slot + first - run.first) % region_slots
            count = min(in_region, end - first)
            pieces.append(run.part(first, count))
            first += count
        return pieces

    def read_piece(
        self, piece: PlacedRun, leased: Leased, buffers: Buffers, gate: Gate
    ) -> PieceRead:
        """Read neighbouring slots of one region with O_DIRECT, and verify each."""
        if leased.is_late():
            return PieceRead(piece)
        read = self._try_piece(piece, leased, buffers, gate)
        if read.corrupt or read.unanswered:
            # The region may have been given back and lent anew since its file was opened.
            region = piece.slot // self._opened.region_slots[piece.tier]
            self._memory.forget_segment(self._opened.number, piece.tier, region)
            read = self._try_piece(piece, leased, buffers, gate)
        return read if self.holds(leased) else PieceRead(piece)

    def _try_piece(
        self, piece: PlacedRun, leased: Leased, buffers: Buffers, gate: Gate
    ) -> PieceRead:
        """Read a piece straight into the caller's memory, or through a gate beside it."""
        region, first = divmod(piece.slot, self._opened.region_slots[piece.tier])
        indices = range(piece.first, piece.first + piece.count)
        keys = [leased.keys[index] for index in indices]
        payloads: list[int] = []
        reader = buffers.reader(self._threads.reader(self._layout, leased.part))
        try:
            # First of all: a daemon that hangs may keep us waiting for this.
            segment = self._memory.segment(self._opened.number, piece.tier, region)
            with gate.straight(leased) as is_straight:
                if is_straight:
                    targets = [buffers.address(index) for index in indices]
                    faults = reader.read(segment, first, keys, targets)
                else:
                    faults, payloads = reader.read_beside(segment, first, keys)
            copies: list[Copy] = []
            for index, payload, fault in zip(indices, payloads, faults, strict=False):
                if not fault:
                    copies += buffers.copies_into(index, 0, payload, self._layout.part_bytes)
            if not is_straight and not gate.through(copies):
                return PieceRead(piece)
        except (OSError, Refused) as error:
            return PieceRead(piece, unanswered=str(error) or type(error).__name__)
        right = [at for at, fault in zip(indices, faults, strict=True) if not fault]
        wrong = [at for at, fault in zip(indices, faults, strict=True) if fault]
        return PieceRead(piece, right, wrong, mechanism=reader.mechanism)

    def load_chunk(self, run: PlacedRun, leased: Leased, buffers: Buffers, chunk: Chunk) -> None:
        """Copy some layers of neighbouring slots. They are right if the lease still holds.

        Raises:
            OSError: the GPU whose memory it is does not answer.
        """
        arena = self.touch_regions(run.tier, run.slot, run.count)
        if buffers.is_on_device:
            self._prepare(arena, run, buffers)
        stride = arena.slot_bytes
        start = arena.address + run.slot * stride + leased.part * self._layout.part_stride_bytes
        start += chunk.offset
        copies = [
            copy
            for at in range(run.count)
            for copy in buffers.copies_into(
                run.first + at, chunk.offset, start + at * stride, chunk.bytes
            )
        ]
        buffers.copy_all(copies, self.helpers)

    def read_chunk(
        self,
        block: PlacedRun,
        number: int,
        header: SlotHeader | None,
        leased: Leased,
        buffers: Buffers,
        gate: Gate,
    ) -> SlotHeader | ChunkFault:
        """Read some layers of one block through a gate; return what its slot says, or a fault.

        `header` is what it said when other layers were read. Of a slot without checksums for
        chunks the whole part is read, with the first of them.
        """
        region, slot = divmod(block.slot, self._opened.region_slots[block.tier])
        reader = self._threads.reader(self._layout, leased.part)
        key = leased.keys[block.first]
        fault = ChunkFault("", unanswered=True)
        for _ in range(2):
            try:
                segment = self._memory.segment(self._opened.number, block.tier, region)
                found, read = reader.read_chunk(segment, slot, header or key, number)
                if isinstance(found, SlotHeader):
                    return self._pass_on(found, read, buffers, block.first, gate)
                fault = ChunkFault(found, unanswered=False)
            except (OSError, Refused) as error:
                fault = ChunkFault(str(error) or type(error).__name__, unanswered=True)
            self._memory.forget_segment(self._opened.number, block.tier, region)
        return fault

    def _pass_on(
        self, header: SlotHeader, read: Patch | None, buffers: Buffers, index: int, gate: Gate
    ) -> SlotHeader | ChunkFault:
        """Copy what was read of a block into the caller's memory.

        Raises:
            OSError: that is the memory of a GPU, which does not answer.
        """
        if read is not None:
            address, offset, size = read
            if not gate.through(buffers.copies_into(index, offset, address, size)):
                return ChunkFault("too late", unanswered=True)
        return header

    def _load_cuda(self, arena: Any, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        size, region_slots = self._layout.part_bytes, self._opened.region_slots[run.tier]
        start = leased.part * self._layout.part_stride_bytes
        for index in range(run.count):
            slot = arena.slot(run.slot + index, region_slots)[start : start + size]
            source = slot if buffers.is_on_device else slot.cpu()
            copies = buffers.copies_into(run.first + index, 0, source.data_ptr(), size)
            buffers.copy_all(copies, None)
        return run.count if self.holds(leased) else 0


class RemoteLoader:
    """Has the daemon send the bytes, over the network."""

    reads_media = False
    piece_blocks = 1 << 32

    def __init__(self, connection: Connection, layout: LayoutSpec, threads: Threads) -> None:
        self._connection = connection
        self._layout = layout
        self._threads = threads

    def submit(self, read: Callable[[], None]) -> None:
        """Have a thread receive blocks."""
        self._threads.readers.submit(read)

    def staged_route(self) -> str:
        """Return the name of the only route there is."""
        return "remote"

    def route(self, tier: int) -> str:
        """Return the name of the only route there is."""
        return "remote"

    def load_ready(self, run: PlacedRun, leased: Leased, buffers: Buffers) -> int:
        """Receive blocks until the run or the stream ends."""
        return self._receive(run, leased, buffers, Gate(buffers))

    def pieces(self, run: PlacedRun) -> list[PlacedRun]:
        """Return the run: the daemon cuts it as it likes."""
        return [run]

    def read_piece(
        self, piece: PlacedRun, leased: Leased, buffers: Buffers, gate: Gate
    ) -> PieceRead:
        """Receive blocks that the daemon reads from the medium for us."""
        count = self._receive(piece, leased, buffers, gate)
        return PieceRead(piece, range(piece.first, piece.first + count))

    def _receive(self, run: PlacedRun, leased: Leased, buffers: Buffers, gate: Gate) -> int:
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
                data: bytes = chunk.data
                source, size = _address(data), len(data)
                if not gate.through(buffers.copies_into(chunk.index, chunk.offset, source, size)):
                    break
                received += len(data)
        except (grpc.RpcError, ValueError):  # ValueError: the channel is closed.
            pass  # What has come whole counts; the rest is a miss.
        return received // self._layout.part_bytes


def _address(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
