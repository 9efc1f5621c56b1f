"""The pages that make a disk slot and a segment describe themselves.

A slot is a header page and the block's payload; a segment is a header page and a run of slots.
Everything needed to tell right bytes from stale, misdirected or damaged ones is in these pages,
so the daemon and a client that reads a segment by itself check the same things with the same
code. `tierd/index/FORMAT.md` draws the bytes. Opening and reading files is left to the caller.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import Final

from xxhash import xxh3_64_intdigest

from tierd.core.keys import BlockKey
from tierd.core.layouts import CHUNK_NUMBERS_MAX, SHARDS_MAX, LayoutSpec
from tierd.core.sums import fold, page_sums
from tierd.core.units import PAGE_BYTES

FORMAT_VERSION: Final = 2
"""What is written. Slots and segments of `_VERSIONS` are read, whatever is beside them."""

SLOT_MAGIC: Final = b"tierdslt"
SEGMENT_MAGIC: Final = b"tierdseg"

checksum: Final[Callable[[memoryview], int]] = xxh3_64_intdigest
"""XXH3-64. Concurrency: lets other threads run while it works on more than 64 KiB."""

_SEAL = struct.Struct("<8sQQ")
_SLOT = struct.Struct("<Q16s16s16sQQQ")
_SEGMENT = struct.Struct("<Q16sQQQ")
_NUMBERS_AT = 128
_CHUNKS = struct.Struct("<QQ")
_CHUNKS_AT = _SEAL.size + _SLOT.size
_DESCRIPTION_AT = _SEAL.size + _SEGMENT.size
_SEGMENT_NAME = re.compile(r"([0-9a-f]{32})-(\d{6,})\.segment")
_ZEROS = bytes(PAGE_BYTES)
_VERSIONS: Final = (1, FORMAT_VERSION)


@dataclass(frozen=True, slots=True)
class SlotHeader:
    """What a slot says about the block in it.

    `chunk_ends` says where each chunk of a part ends, in bytes from the part's start, and
    `chunk_checksums` has, by part and chunk, its XXH3-64. `sums` has for each part what
    `tierd.core.sums` makes of it, or is empty: not every daemon writes them. A slot of version 1
    has one chunk a part, and no sums.
    """

    fingerprint: bytes
    key: BlockKey
    parent: BlockKey
    sequence: int
    part_bytes: int
    part_stride_bytes: int
    chunk_ends: tuple[int, ...]
    chunk_checksums: tuple[tuple[int, ...], ...]
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says about its slots. `slot_stride_bytes` counts the slot's header too.

    `description` names the namespace and its layout: see `describe`.
    """

    fingerprint: bytes
    region: int
    region_slots: int
    slot_stride_bytes: int
    description: bytes = b""


def segment_name(fingerprint: bytes, region: int) -> str:
    """Return the name of the file that holds a region."""
    return f"{fingerprint.hex()}-{region:06d}.segment"


def parse_segment_name(name: str) -> tuple[bytes, int] | None:
    """Return the fingerprint and the region that a file's name says, or None for other files."""
    parts = _SEGMENT_NAME.fullmatch(name)
    return (bytes.fromhex(parts[1]), int(parts[2])) if parts else None


def describe(name: str, layout: LayoutSpec) -> bytes:
    """Return what a segment says of its namespace, so that a lost index can be made anew.

    It is empty where it does not fit: only such a namespace is lost together with the index.
    """
    text = json.dumps({"name": name, "layout": layout.given()}, separators=(",", ":")).encode()
    room = PAGE_BYTES - _DESCRIPTION_AT
    packed = text if len(text) <= room else zlib.compress(text)
    return packed if len(packed) <= room else b""


def described(header: SegmentHeader) -> tuple[str, LayoutSpec] | None:
    """Return the name and the layout of the segment's namespace, if its header says them."""
    packed = header.description
    if not packed:
        return None
    fields = json.loads(packed if packed.startswith(b"{") else zlib.decompress(packed))
    layout = LayoutSpec.of(fields["layout"])
    return (fields["name"], layout) if layout.fingerprint == header.fingerprint else None


def slot_stride_bytes(layout: LayoutSpec) -> int:
    """Return the distance between two slots of a segment."""
    return PAGE_BYTES + layout.block_bytes


def slot_offset(slot: int, region_slots: int, layout: LayoutSpec) -> int:
    """Return where the header page of `slot` starts in the segment of its region."""
    return PAGE_BYTES + slot % region_slots * slot_stride_bytes(layout)


def sum_of(part: memoryview) -> int:
    """Return the sum of a part, which a GPU can compute, too."""
    return fold(page_sums(part))


def slot_header(
    layout: LayoutSpec,
    key: BlockKey,
    parent: BlockKey,
    sequence: int,
    payload: memoryview,
    sum_part: Callable[[memoryview], int] | None = sum_of,
) -> SlotHeader:
    """Return the header for a block that is about to be written; without `sum_part`, without sums.

    The padding after a part is not covered.
    """
    shape = _shape(layout)
    size, stride = shape.part
    parts = [payload[at : at + size] for at in range(0, layout.block_bytes, stride)]
    checksums = tuple(
        tuple(checksum(chunk) for chunk in _split(part, shape.chunk_ends)) for part in parts
    )
    sums = tuple(map(sum_part, parts)) if sum_part else ()
    ends = shape.chunk_ends
    return SlotHeader(shape.fingerprint, key, parent, sequence, size, stride, ends, checksums, sums)


def pack_slot(header: SlotHeader, page: memoryview) -> None:
    """Fill the 4096 bytes of `page` with `header`."""
    assert len(header.sums) in (0, len(header.chunk_checksums)), header
    page[:] = _ZEROS
    _SLOT.pack_into(
        page,
        _SEAL.size,
        header.sequence,
        header.fingerprint,
        header.key,
        header.parent,
        len(header.chunk_checksums),
        header.part_bytes,
        header.part_stride_bytes,
    )
    _CHUNKS.pack_into(page, _CHUNKS_AT, len(header.chunk_ends), len(header.sums))
    numbers = [*header.chunk_ends, *header.sums, *chain.from_iterable(header.chunk_checksums)]
    struct.pack_into(f"<{len(numbers)}Q", page, _NUMBERS_AT, *numbers)
    _seal(page, SLOT_MAGIC)


def unpack_slot(page: memoryview) -> SlotHeader | str:
    """Return the header in `page`, or why there is none."""
    fault = _page_fault(page, SLOT_MAGIC, "slot")
    if fault is not None:
        return fault
    sequence, fingerprint, key, parent, shards, size, stride = _SLOT.unpack_from(page, _SEAL.size)
    if shards > SHARDS_MAX:
        return f"the slot header claims {shards} shards"
    numbers = _unpack_numbers(page, shards, size)
    if isinstance(numbers, str):
        return numbers
    key, parent = BlockKey(key), BlockKey(parent)
    return SlotHeader(fingerprint, key, parent, sequence, size, stride, *numbers)


def pack_segment(header: SegmentHeader, page: memoryview) -> None:
    """Fill the 4096 bytes of `page` with `header`."""
    page[:] = _ZEROS
    _SEGMENT.pack_into(
        page,
        _SEAL.size,
        header.region,
        header.fingerprint,
        header.region_slots,
        header.slot_stride_bytes,
        len(header.description),
    )
    page[_DESCRIPTION_AT : _DESCRIPTION_AT + len(header.description)] = header.description
    _seal(page, SEGMENT_MAGIC)


def unpack_segment(page: memoryview) -> SegmentHeader | str:
    """Return the header in `page`, or why there is none."""
    fault = _page_fault(page, SEGMENT_MAGIC, "segment")
    if fault is not None:
        return fault
    region, fingerprint, region_slots, stride, size = _SEGMENT.unpack_from(page, _SEAL.size)
    if size > PAGE_BYTES - _DESCRIPTION_AT:
        return f"the segment header claims a description of {size} bytes"
    description = bytes(page[_DESCRIPTION_AT : _DESCRIPTION_AT + size])
    return SegmentHeader(fingerprint, region, region_slots, stride, description)


def other_version(page: memoryview) -> int | None:
    """Return the version of a segment that this code does not read; None for all else."""
    if len(page) < _SEAL.size:
        return None
    magic, version, _ = _SEAL.unpack_from(page)
    return version if magic == SEGMENT_MAGIC and version not in _VERSIONS else None


def check_header(page: memoryview, expected_key: BlockKey, layout: LayoutSpec) -> SlotHeader | str:
    """Return the header of a slot that holds `expected_key`, or why it does not."""
    header = unpack_slot(page)
    if isinstance(header, str):
        return header
    shape = _shape(layout)
    if header.fingerprint != shape.fingerprint:
        return f"namespace {header.fingerprint.hex()} is in the slot, not {shape.fingerprint.hex()}"
    if header.key != expected_key:
        return f"block {header.key.hex()} is in the slot, not {expected_key.hex()}"
    part = (header.part_bytes, header.part_stride_bytes)
    shards = len(header.chunk_checksums)
    if shards != layout.shards or part != shape.part:
        return f"the slot has {shards} parts of {part[0]} bytes every {part[1]}"
    return header


def check_part(header: SlotHeader, shard: int, part: memoryview) -> str | None:
    """Return why the `part_bytes` of `part` are not those of the shard, or None if they are."""
    assert len(part) == header.part_bytes, (len(part), header.part_bytes)
    faults = (
        check_chunk(header, shard, index, chunk)
        for index, chunk in enumerate(_split(part, header.chunk_ends))
    )
    return next((fault for fault in faults if fault is not None), None)


def check_chunk(header: SlotHeader, shard: int, index: int, chunk: memoryview) -> str | None:
    """Return why the bytes of `chunk` are not those of the shard's, or None if they are.

    The chunks are those of `header.chunk_ends`, and they are the layout's chunks unless the
    slot is of version 1, or written when layouts were cut otherwise: see `has_chunks`.
    """
    stored, found = header.chunk_checksums[shard][index], checksum(chunk)
    if stored != found:
        return f"part {shard} has checksum {found:#018x}, its header says {stored:#018x}"
    return None


def check_sums(header: SlotHeader, shard: int, sums: bytes) -> str | None:
    """Return why these `page_sums` are not those of a shard's part, or None if they are.

    The header has to have sums.
    """
    stored, found = header.sums[shard], fold(sums)
    if stored != found:
        return f"part {shard} has sum {found:#018x}, its header says {stored:#018x}"
    return None


def has_chunks(header: SlotHeader, layout: LayoutSpec) -> bool:
    """Say whether the layout's chunks can be checked one by one, or only the whole part."""
    return header.chunk_ends == _shape(layout).chunk_ends


def verify(
    header_page: memoryview, payload: memoryview, expected_key: BlockKey, layout: LayoutSpec
) -> str | None:
    """Return why the slot does not hold the sealed bytes of `expected_key`, or None if it does.

    Shapes: header_page [4096], payload [layout.block_bytes].
    """
    header = check_header(header_page, expected_key, layout)
    if isinstance(header, str):
        return header
    size, stride = header.part_bytes, header.part_stride_bytes
    parts = (payload[at : at + size] for at in range(0, stride * layout.shards, stride))
    faults = (check_part(header, shard, part) for shard, part in enumerate(parts))
    return next((fault for fault in faults if fault is not None), None)


@dataclass(frozen=True, slots=True)
class _Shape:
    fingerprint: bytes
    part: tuple[int, int]
    chunk_ends: tuple[int, ...]


@lru_cache(maxsize=256)
def _shape(layout: LayoutSpec) -> _Shape:
    """Cached because a fingerprint costs as much as the checksum of half a megabyte."""
    part = (layout.part_bytes, layout.part_stride_bytes)
    return _Shape(layout.fingerprint, part, tuple(chunk.end for chunk in layout.chunks))


def _split(part: memoryview, ends: Sequence[int]) -> Iterator[memoryview]:
    return (part[start:end] for start, end in pairwise((0, *ends)))


_Numbers = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[int, ...]]


def _unpack_numbers(page: memoryview, shards: int, part_bytes: int) -> _Numbers | str:
    """Return where chunks end, their checksums and the parts' sums, or what is wrong with them."""
    _, version, _ = _SEAL.unpack_from(page)
    if version == 1:
        found = struct.unpack_from(f"<{shards}Q", page, _NUMBERS_AT)
        return (part_bytes,), tuple((each,) for each in found), ()
    chunks, summed = _CHUNKS.unpack_from(page, _CHUNKS_AT)
    count = chunks + summed + shards * chunks
    if count > CHUNK_NUMBERS_MAX or summed not in (0, shards):
        return f"the slot header claims {chunks} chunks and {summed} sums of {shards} shards"
    numbers = struct.unpack_from(f"<{count}Q", page, _NUMBERS_AT)
    ends, sums, rest = numbers[:chunks], numbers[chunks : chunks + summed], chunks + summed
    if ends[-1:] != (part_bytes,) or any(end <= start for start, end in pairwise((0, *ends))):
        return f"the slot header claims chunks that end at {ends}"
    return ends, tuple(numbers[at : at + chunks] for at in range(rest, count, chunks)), sums


def _seal(page: memoryview, magic: bytes) -> None:
    assert len(page) == PAGE_BYTES, len(page)
    _SEAL.pack_into(page, 0, magic, FORMAT_VERSION, checksum(page[_SEAL.size :]))


def _page_fault(page: memoryview, magic: bytes, what: str) -> str | None:
    if len(page) != PAGE_BYTES:
        return f"the {what} header has {len(page)} of {PAGE_BYTES} bytes"
    found_magic, version, stored = _SEAL.unpack_from(page)
    if found_magic != magic:
        return f"there is no {what} header"
    if version not in _VERSIONS:
        return f"the {what} header is of format version {version}, not {FORMAT_VERSION}"
    found = checksum(page[_SEAL.size :])
    if found != stored:
        return f"the {what} header has checksum {found:#018x}, and says {stored:#018x}"
    return None
