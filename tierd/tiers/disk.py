"""Blocks on disk, in preallocated segment files past the page cache.

Every block is written with a header page that names it and carries its checksums, and every
read is verified against that page before it is called good. What is durable, and what may be
forgotten, is decided by the index and its owner; `sync` is what they build on.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from tierd.core.errors import CorruptSlot, FormatMismatch, TierOffline
from tierd.core.slots import (
    SegmentHeader,
    describe,
    pack_slot,
    slot_header,
    slot_offset,
    slot_stride_bytes,
    verify,
)
from tierd.core.units import PAGE_BYTES, MiB
from tierd.tiers.base import Probe, SlotRead, SlotWrite, SpaceSpec
from tierd.tiers.segments import (
    PIECE_SLOTS_MAX,
    TIER,
    Segment,
    Volume,
    faults_of,
    read_fully,
    write_fully,
)

PIECE_BYTES: Final = 4 * MiB
"""What one thread transfers at a time: enough for the device, little enough to share it out."""

_R = TypeVar("_R")

_READY: Final["Future[None]"] = Future()
_READY.set_result(None)
"""Of all segments that were found: there may be ten thousands."""


class DiskTier:
    """The tier of one host's local file systems, striped over `directories`.

    Units: `threads` is for each directory, and so the transfers it sees at once. `sum_part` makes
    the sums that GPUs verify by; without it none are written.

    Raises:
        TierOffline: a directory cannot be used.
        FormatMismatch: a segment there is of another format version.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        threads: int,
        sum_part: Callable[[memoryview], int] | None = None,
    ) -> None:
        assert directories
        self._sum_part = sum_part
        self._volumes = [Volume(directory, threads) for directory in directories]
        self._spaces: dict[bytes, DiskSpace] = {}
        self._found: dict[bytes, dict[int, tuple[Volume, SegmentHeader]]] = {}
        for volume in self._volumes:
            for _, header in volume.scan():
                regions = self._found.setdefault(header.fingerprint, {})
                # A region is in two directories only if somebody copied files: the first is
                # used, and the other is not counted.
                if regions.setdefault(header.region, (volume, header))[0] is volume:
                    volume.segments += 1

    @property
    def name(self) -> str:
        return TIER

    @property
    def medium(self) -> str:
        return "segments"

    def space(self, spec: SpaceSpec) -> "DiskSpace":
        """Return the space of `spec.layout`, with the regions that were found on disk.

        Raises:
            FormatMismatch: segments of the namespace have another number of slots.
        """
        fingerprint = spec.layout.fingerprint
        if fingerprint not in self._spaces:
            found = self._found.pop(fingerprint, {})
            self._spaces[fingerprint] = DiskSpace(spec, self._volumes, found, self._sum_part)
        space = self._spaces[fingerprint]
        assert space.spec == spec, (space.spec, spec)
        return space

    async def probe(self) -> Probe:
        probes = await _all_ended(
            [volume.submit(volume.probe, self._some_segment(volume)) for volume in self._volumes]
        )
        faults = [(probe.read_fault, probe.write_fault) for probe in probes]
        return Probe(*(next(filter(None, causes), None) for causes in zip(*faults, strict=True)))

    def _some_segment(self, volume: Volume) -> Path | None:
        """Return a segment of the volume that is there to be read, if any is."""
        for space in self._spaces.values():
            for segment in space.segments():
                made = segment.ready.done() and not segment.has_failed()
                if made and segment.volume is volume:
                    return segment.path
        return None

    async def aclose(self) -> None:
        for volume in self._volumes:
            await asyncio.to_thread(volume.close)


class DiskSpace:
    """One namespace's slots on disk. Concurrency: every call is made on one event loop."""

    def __init__(
        self,
        spec: SpaceSpec,
        volumes: Sequence[Volume],
        found: dict[int, tuple[Volume, SegmentHeader]],
        sum_part: Callable[[memoryview], int] | None,
    ) -> None:
        self._sum_part = sum_part
        self._spec = spec
        self._layout = spec.layout
        self._fingerprint = spec.layout.fingerprint
        self._block_bytes = spec.layout.block_bytes
        self._piece_slots = min(max(1, PIECE_BYTES // self._block_bytes), PIECE_SLOTS_MAX)
        self._volumes = volumes
        self._segments: dict[int, Segment] = {}
        self._leaving: dict[int, Future[None]] = {}
        self._unsynced: set[Segment] = set()
        self._unnamed: set[Segment] = set()
        self._lost: set[Segment] = set()
        self._sync_turn = asyncio.Lock()
        for region, (volume, header) in found.items():
            self._adopt(volume, region, header)

    @property
    def spec(self) -> SpaceSpec:
        return self._spec

    def regions(self) -> set[int]:
        """Return the regions that have a segment."""
        return set(self._segments)

    def segments(self) -> list[Segment]:
        """Return the segments of all regions."""
        return list(self._segments.values())

    def segment_path(self, region: int) -> Path:
        """Return the file of a region that was prepared or written."""
        return self._segments[region].path

    def slot_offset(self, slot: int) -> int:
        """Return where the slot's header page starts in its segment; the payload follows it."""
        return slot_offset(slot, self._spec.region_slots, self._layout)

    def open_segment(self, region: int) -> int:
        """Return a read-only descriptor for somebody else, who closes it. Blocks briefly.

        Raises:
            TierOffline: the file does not open.
        """
        segment = self._segments[region]
        with faults_of(segment.path):
            return segment.volume.open(segment.path, os.O_RDONLY)

    def prepare(self, region: int) -> None:
        """Start making the segment. One that could not be made is tried again when it is needed."""
        if region in self._segments:
            return
        volume = self._volume_for(region)
        volume.segments += 1
        # The segment that had this name may still be on its way out.
        made = volume.submit(self._make, volume, region, self._leaving.get(region))
        self._segments[region] = Segment(volume, self._fingerprint, region, made)
        self._unnamed.add(self._segments[region])

    async def write(self, writes: Sequence[SlotWrite]) -> None:
        runs = list(self._runs([write.slot for write in writes]))
        regions = {writes[run[0]].slot // self._spec.region_slots for run in runs}
        for region in sorted(regions):
            self.prepare(region)
        segments = {region: await self._made(region) for region in regions}
        pieces = []
        for run in runs:
            piece = [writes[at] for at in run]
            segment = segments[piece[0].slot // self._spec.region_slots]
            pieces.append(segment.volume.submit(self._write_piece, segment, piece))
        await _all_ended(pieces)
        # Only now: a sync that ran meanwhile did not cover these bytes.
        self._unsynced.update(segments.values())

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        faults: list[CorruptSlot | None] = [None] * len(reads)
        runs, pieces = [], []
        for run in self._runs([read.slot for read in reads]):
            segment = self._segments.get(reads[run[0]].slot // self._spec.region_slots)
            if segment is None:
                for at in run:
                    faults[at] = CorruptSlot(TIER, reads[at].slot, "its region has no segment")
                continue
            piece = [reads[at] for at in run]
            runs.append(run)
            pieces.append(segment.volume.submit(self._read_piece, segment, piece))
        for run, found in zip(runs, await _all_ended(pieces), strict=True):
            for at, fault in zip(run, found, strict=True):
                faults[at] = fault
        return faults

    async def sync(self) -> None:
        # In turn: a second caller must not return before the first one's bytes are durable.
        async with self._sync_turn:
            segments, self._unsynced = self._unsynced, set()
            volumes = {segment.volume for segment in segments & self._unnamed}
            try:
                await _all_ended([s.volume.submit(self._sync_segment, s) for s in segments])
                await _all_ended([volume.submit(volume.sync_names) for volume in volumes])
            except (TierOffline, asyncio.CancelledError):
                self._unsynced |= segments
                raise
            self._unnamed -= segments

    async def reclaim(self, region: int) -> None:
        segment = self._segments.pop(region, None)
        if segment is None:
            return
        leaving = segment.volume.submit(segment.volume.remove, segment)
        segment.volume.segments -= 1
        self._leaving[region] = leaving
        self._unsynced.discard(segment)
        self._unnamed.discard(segment)
        try:
            await asyncio.shield(asyncio.wrap_future(leaving))
        except TierOffline:
            # The file is still there. Were its region made in another directory now, a
            # restart would find two.
            if self._segments.setdefault(region, segment) is segment:
                segment.volume.segments += 1
            raise
        finally:
            if leaving.done() and self._leaving.get(region) is leaving:
                del self._leaving[region]

    def _volume_for(self, region: int) -> Volume:
        """Return the volume with the fewest segments: of several, the one next in turn.

        So regions that are lent one after another lie on all devices, as `stripes` promises.
        """
        count = len(self._volumes)
        turns = (self._volumes[(region + turn) % count] for turn in range(count))
        return min(turns, key=lambda volume: volume.segments)

    def _adopt(self, volume: Volume, region: int, header: SegmentHeader) -> None:
        stride, slots = slot_stride_bytes(self._layout), self._spec.region_slots
        # What it says of the namespace is for rebuilding: the name may have changed.
        wanted = SegmentHeader(self._fingerprint, region, slots, stride, header.description)
        if header != wanted:
            raise FormatMismatch(
                str(volume.path(self._fingerprint, region)),
                f"{header.region_slots} slots every {header.slot_stride_bytes} bytes, "
                f"not {wanted.region_slots} every {wanted.slot_stride_bytes}",
                "open the namespace with its own region size, or remove the file",
            )
        self._segments[region] = Segment(volume, self._fingerprint, region, _READY)

    def _header(self, region: int) -> SegmentHeader:
        stride = slot_stride_bytes(self._layout)
        description = describe(self._spec.name, self._layout)
        slots = self._spec.region_slots
        return SegmentHeader(self._fingerprint, region, slots, stride, description)

    async def _made(self, region: int) -> Segment:
        known = self._segments.get(region)
        if known is not None and (known.has_failed() or known in self._lost):
            self._give_up(known)  # That was when it was prepared: by now there may be room.
        self.prepare(region)
        segment = self._segments[region]
        try:
            await asyncio.shield(asyncio.wrap_future(segment.ready))
        except TierOffline:
            self._give_up(segment)  # so that the next write tries again
            raise
        return segment

    def _give_up(self, segment: Segment) -> None:
        """Forget a segment that could not be made, or that somebody has removed."""
        if self._segments.get(segment.region) is segment:
            del self._segments[segment.region]
            self._unnamed.discard(segment)
            self._unsynced.discard(segment)
            segment.volume.segments -= 1
        self._lost.discard(segment)

    def _runs(self, slots: Sequence[int]) -> Iterator[list[int]]:
        """Yield places in `slots` whose slots lie one after another in one region."""
        run: list[int] = []
        for at in sorted(range(len(slots)), key=slots.__getitem__):
            slot = slots[at]
            if run and (
                slot != slots[run[-1]] + 1
                or slot % self._spec.region_slots == 0
                or len(run) == self._piece_slots
            ):
                yield run
                run = []
            run.append(at)
        if run:
            yield run

    # What follows runs in the threads of a volume.

    def _make(self, volume: Volume, region: int, leaving: "Future[None] | None") -> None:
        if leaving is not None:  # it was queued before, so this wait ends
            wait([leaving])
        volume.create(self._header(region))

    def _write_piece(self, segment: Segment, writes: Sequence[SlotWrite]) -> None:
        pages = segment.volume.header_pages(len(writes))
        buffers = []
        for page, write in zip(pages, writes, strict=True):
            self._assert_usable(write.source)
            header = slot_header(
                self._layout,
                write.key,
                write.parent,
                write.sequence,
                write.source,
                self._sum_part,
            )
            pack_slot(header, page)
            buffers += [page, write.source]
        with faults_of(segment.path):
            try:
                with segment.volume.opened(segment.path, os.O_RDWR) as fd:
                    write_fully(fd, buffers, self.slot_offset(writes[0].slot))
            except FileNotFoundError:
                self._lost.add(segment)  # The next write makes it anew.
                raise

    def _read_piece(self, segment: Segment, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        pages = segment.volume.header_pages(len(reads))
        buffers = []
        for page, read in zip(pages, reads, strict=True):
            self._assert_usable(read.target)
            buffers += [page, read.target]
        try:
            with segment.volume.opened(segment.path, os.O_RDONLY) as fd:
                got = read_fully(fd, buffers, self.slot_offset(reads[0].slot))
        except FileNotFoundError:
            got = 0
        except OSError as error:
            raise TierOffline(TIER, f"{segment.path}: {error.strerror}") from error
        whole = got // (PAGE_BYTES + self._block_bytes)
        causes = [
            verify(page, read.target, read.key, self._layout)
            if at < whole
            else f"{segment.path} ends before the slot does"
            for at, (page, read) in enumerate(zip(pages, reads, strict=True))
        ]
        return [
            None if cause is None else CorruptSlot(TIER, read.slot, cause)
            for read, cause in zip(reads, causes, strict=True)
        ]

    def _sync_segment(self, segment: Segment) -> None:
        with faults_of(segment.path):
            try:
                segment.volume.sync_file(segment.path)
            except FileNotFoundError:
                # Reclaimed since: a region leaves the table before its file goes.
                if self._segments.get(segment.region) is segment:
                    raise

    def _assert_usable(self, memory: memoryview) -> None:
        assert len(memory) == self._block_bytes, (len(memory), self._block_bytes)
        address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
        assert address % PAGE_BYTES == 0, hex(address)


async def _all_ended(pieces: Sequence["Future[_R]"]) -> list[_R]:
    """Return the results once every piece has ended, whatever happens.

    Cancellation: pieces that have not started are dropped, and those that have are waited
    for, because they work in the caller's memory.
    """
    futures = [asyncio.wrap_future(piece) for piece in pieces]
    waiting = set(futures)
    cancelled: asyncio.CancelledError | None = None
    while waiting:
        try:
            _, waiting = await asyncio.wait(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
            for piece in pieces:
                piece.cancel()
    faults = [future.exception() for future in futures if not future.cancelled()]
    if cancelled is not None:
        raise cancelled
    for fault in faults:
        if fault is not None:
            raise fault
    return [future.result() for future in futures]
