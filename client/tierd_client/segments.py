"""The direct route without a GPU: slots read from segment files into the caller's memory.

Reads go past the page cache, so both ends must be page aligned: a block goes straight into
memory that is, and through a buffer of the thread into memory that is not. Nothing counts before
its header's key and its checksum are found to be right.
"""

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import SlotHeader, check_chunk, check_header, check_part, has_chunks
from tierd.core.units import PAGE_BYTES, MiB, round_up
from tierd_client.buffers import copy
from tierd_client.memory import SegmentFile

PIECE_BYTES: Final = 4 << 20
"""Neighbouring slots are read together, up to so much at once."""

_PIECE_SLOTS_MAX: Final = 256
_PREPARE_S: Final = 5.0
_HUGE_PAGE_BYTES: Final = 2 * MiB


Patch = tuple[int, int, int]
"""An address, the place in the part of the bytes that are there, and how many they are."""


class SegmentReader:
    """Reads the parts of one shard. Concurrency: any thread; buffers are each thread's own."""

    def __init__(self, layout: LayoutSpec, part: int) -> None:
        self.layout = layout
        self.part = part
        self._own = threading.local()

    @property
    def mechanism(self) -> str:
        """Say how bytes come: past the page cache."""
        return "O_DIRECT"

    @property
    def piece_slots(self) -> int:
        """How many neighbouring slots are best read together."""
        return min(_PIECE_SLOTS_MAX, max(1, PIECE_BYTES // self.layout.block_bytes))

    def prepare(self, others: threading.Barrier) -> None:
        """Make memory of the calling thread's own ready, then wait for other threads that do so.

        Raises:
            threading.BrokenBarrierError: they do not come.
        """
        for name, size in (("pages", PAGE_BYTES), ("scratch", self.layout.part_stride_bytes)):
            for piece in self._buffer(name, self.piece_slots, size):
                piece[::PAGE_BYTES] = bytes(-(-len(piece) // PAGE_BYTES))
        others.wait(_PREPARE_S)

    def read(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey], targets: Sequence[int]
    ) -> list[str]:
        """Read neighbouring slots, the first being `first` of the segment, into `targets`.

        Shapes: a key and an address of `part_bytes` bytes for each slot; at most `piece_slots`.
        Returns what is wrong with each, "" where nothing is.

        Raises:
            OSError: the file does not answer.
        """
        payloads = self._payloads(targets)
        faults = self._read(segment, first, keys, payloads)
        for target, payload, fault in zip(targets, payloads, faults, strict=True):
            if not fault and _address(payload) != target:
                copy(target, _address(payload), self.layout.part_bytes)
        return faults

    def read_beside(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey]
    ) -> tuple[list[str], list[int]]:
        """Read as `read` does, but into memory of the calling thread's own.

        Returns what is wrong with each slot, and the address of each, good until the thread's
        next call.

        Raises:
            OSError: the file does not answer.
        """
        payloads = self._buffer("scratch", len(keys), self.layout.part_stride_bytes)
        faults = self._read(segment, first, keys, payloads)
        return faults, [_address(payload) for payload in payloads]

    def read_chunk(
        self, segment: SegmentFile, slot: int, expect: SlotHeader | BlockKey, number: int
    ) -> tuple[SlotHeader | str, Patch | None]:
        """Read chunk `number` of the layout out of one slot, into the calling thread's own memory.

        `expect` is the block's key, or what its header said before. Returns the header or what
        is wrong, and the bytes, good until the thread's next call. A slot without checksums for
        chunks gives its whole part with the first chunk, and nothing with the others.

        Raises:
            OSError: the file does not answer.
        """
        layout = self.layout
        at = segment.first_slot + slot * segment.slot_stride
        header: SlotHeader | str
        if isinstance(expect, SlotHeader):
            header = expect
        else:
            [page] = self._buffer("pages", 1, PAGE_BYTES)
            got = os.preadv(segment.descriptor, [page], at)
            header = check_header(page, expect, layout) if got == PAGE_BYTES else "cut short"
        if isinstance(header, str):
            return header, None
        part_at = at + segment.slot_header + self.part * layout.part_stride_bytes
        if not has_chunks(header, layout):
            return self._read_part(segment, header, part_at) if number == 0 else (header, None)
        chunk = layout.chunks[number]
        [pages] = self._buffer("chunk", 1, layout.part_stride_bytes)
        whole_pages = pages[: chunk.page_bytes]
        if os.preadv(segment.descriptor, [whole_pages], part_at + chunk.page_offset) < chunk.bytes:
            return "cut short", None
        skipped = chunk.offset - chunk.page_offset
        found = whole_pages[skipped : skipped + chunk.bytes]
        fault = check_chunk(header, self.part, number, found)
        return fault or header, (_address(found), chunk.offset, chunk.bytes)

    def _read_part(
        self, segment: SegmentFile, header: SlotHeader, at: int
    ) -> tuple[SlotHeader | str, Patch | None]:
        [part] = self._buffer("chunk", 1, self.layout.part_stride_bytes)
        if os.preadv(segment.descriptor, [part], at) < self.layout.part_bytes:
            return "cut short", None
        fault = check_part(header, self.part, part[: self.layout.part_bytes])
        return fault or header, (_address(part), 0, self.layout.part_bytes)

    def _read(
        self,
        segment: SegmentFile,
        first: int,
        keys: Sequence[BlockKey],
        payloads: Sequence[memoryview],
    ) -> list[str]:
        pages = self._buffer("pages", len(keys), PAGE_BYTES)
        whole = self._fill(segment, first, pages, payloads)
        return [
            self._fault(pages[at], key, payloads[at]) if at < whole else "cut short"
            for at, key in enumerate(keys)
        ]

    def _payloads(self, targets: Sequence[int]) -> list[memoryview]:
        """Return where the parts are read to: the targets themselves, if they will do."""
        layout = self.layout
        stride = layout.part_stride_bytes
        aligned = all(target % PAGE_BYTES == 0 for target in targets)
        if aligned and layout.part_bytes == stride:
            return [memoryview((ctypes.c_char * stride).from_address(t)).cast("B") for t in targets]
        return self._buffer("scratch", len(targets), stride)

    def _fill(
        self,
        segment: SegmentFile,
        first: int,
        pages: Sequence[memoryview],
        payloads: Sequence[memoryview],
    ) -> int:
        """Read headers and payloads; return of how many slots all was there."""
        layout = self.layout
        if layout.shards == 1:
            buffers = [part for pair in zip(pages, payloads, strict=True) for part in pair]
            at = segment.first_slot + first * segment.slot_stride
            return os.preadv(segment.descriptor, buffers, at) // segment.slot_stride
        for index, (page, payload) in enumerate(zip(pages, payloads, strict=True)):
            at = segment.first_slot + (first + index) * segment.slot_stride
            part_at = at + segment.slot_header + self.part * layout.part_stride_bytes
            got = os.preadv(segment.descriptor, [page], at)
            got += os.preadv(segment.descriptor, [payload], part_at)
            if got < len(page) + len(payload):
                return index
        return len(pages)

    def _fault(self, page: memoryview, key: BlockKey, payload: memoryview) -> str:
        header = check_header(page, key, self.layout)
        if isinstance(header, str):
            return header
        return check_part(header, self.part, payload[: self.layout.part_bytes]) or ""

    def _buffer(self, name: str, count: int, size: int) -> list[memoryview]:
        """Return `count` aligned pieces of the calling thread's own memory."""
        own = self._own.__dict__
        if len(own.get(name, ())) < count:
            memory = memoryview(_huge(count * size))[: count * size]
            own[name] = [memory[at : at + size] for at in range(0, len(memory), size)]
        pieces: list[memoryview] = own[name]
        return pieces[:count]


def _huge(size: int) -> mmap.mmap:
    """Return memory of at least `size` bytes, in huge pages where there are any.

    A device gets a list of its pages with each request, and takes only so many in one.
    """
    size = round_up(size, _HUGE_PAGE_BYTES) if size >= _HUGE_PAGE_BYTES else size
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # A kernel without them.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
