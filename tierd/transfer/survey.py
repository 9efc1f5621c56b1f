"""Reads the segments of directories that no daemon has: what is there, and whether it is right.

Nothing is changed here but by `mend`. What the findings mean for the index is left to `check`
and `rebuild`.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tierd.core.errors import FormatMismatch
from tierd.core.slots import (
    FORMAT_VERSION,
    SegmentHeader,
    SlotHeader,
    described,
    other_version,
    pack_segment,
    parse_segment_name,
    slot_offset,
    slot_stride_bytes,
    unpack_segment,
    unpack_slot,
    verify,
)
from tierd.core.units import PAGE_BYTES
from tierd.index.lmdb_index import NamespaceRecord

INDEX_NAME: Final = "index"
"""The index is in the first directory, under this name."""

ProblemKind = Literal["index", "segment", "stray", "record"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be, and what was done about it, if anything."""

    kind: ProblemKind
    path: str
    cause: str
    slot: int | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment of its own name. Without `header`, `fault` says why that cannot be read."""

    path: Path
    fingerprint: bytes
    region: int
    header: SegmentHeader | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class SlotFound:
    """A slot with a header of its namespace. `fault` says what else is wrong with it."""

    slot: int
    header: SlotHeader
    fault: str | None


@dataclass(slots=True)
class Survey:
    """The segments by fingerprint and region, and the files that are none of them."""

    segments: dict[bytes, dict[int, SegmentFile]] = field(default_factory=dict)
    strays: list[Problem] = field(default_factory=list)


def survey(directories: Sequence[Path]) -> Survey:
    """Find the segments.

    Raises:
        FormatMismatch: one is of another format version.
        OSError: a directory cannot be read.
    """
    found = Survey()
    for directory in directories:
        for path in sorted(directory.iterdir()):
            name = parse_segment_name(path.name)
            if name is None:
                continue
            segment = _segment(path, *name)
            header = segment.header
            if header is not None and (header.fingerprint, header.region) != name:
                cause = f"its header is that of region {header.region} of another name"
                found.strays.append(Problem("stray", str(path), cause))
                continue
            regions = found.segments.setdefault(segment.fingerprint, {})
            # The daemon, too, takes the first.
            first = regions.setdefault(segment.region, segment)
            if first is not segment:
                cause = f"{first.path} is the same region, and is the one in use"
                found.strays.append(Problem("stray", str(path), cause))
    return found


def namespace_of(segments: Sequence[SegmentFile]) -> NamespaceRecord | None:
    """Return the namespace as its segments describe it, or None where none of them does."""
    for segment in segments:
        if segment.header is not None and (says := described(segment.header)) is not None:
            return NamespaceRecord(*says, segment.header.region_slots)
    return None


def shape_fault(segment: SegmentFile, namespace: NamespaceRecord) -> str | None:
    """Return why the segment is none of the namespace as it is recorded, or None if it is."""
    header, stride = segment.header, slot_stride_bytes(namespace.layout)
    if header is None or (header.region_slots, header.slot_stride_bytes) == (
        namespace.region_slots,
        stride,
    ):
        return None
    return (
        f"{header.region_slots} slots every {header.slot_stride_bytes} bytes, where the namespace "
        f"has {namespace.region_slots} every {stride}"
    )


def read_slots(segment: SegmentFile, namespace: NamespaceRecord) -> list[SlotFound]:
    """Read and verify every slot that says it holds a block. Slots never written are left out.

    Concurrency: blocks; of different segments in different threads.

    Raises:
        OSError: the file cannot be opened.
    """
    layout, count = namespace.layout, namespace.region_slots
    memory = memoryview(mmap.mmap(-1, slot_stride_bytes(layout)))
    page, payload = memory[:PAGE_BYTES], memory[PAGE_BYTES:]
    found = []
    with _opened(segment.path, os.O_RDONLY) as fd:
        # So that the device is read, and not what the kernel remembers of it.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for slot in range(segment.region * count, (segment.region + 1) * count):
            offset = slot_offset(slot, count, layout)
            header = unpack_slot(page) if _fill(fd, page, offset) else "cut off"
            if isinstance(header, str) or header.fingerprint != layout.fingerprint:
                continue
            if _fill(fd, payload, offset + PAGE_BYTES):
                fault = verify(page, payload, header.key, layout)
            else:
                fault = f"{segment.path} cannot be read to the end of the slot"
            found.append(SlotFound(slot, header, fault))
    return found


def mend(segment: SegmentFile, namespace: NamespaceRecord, description: bytes) -> None:
    """Write the segment's header anew, durably, from what its namespace says.

    Raises:
        OSError: the file cannot be written.
    """
    stride = slot_stride_bytes(namespace.layout)
    header = SegmentHeader(
        segment.fingerprint, segment.region, namespace.region_slots, stride, description
    )
    page = memoryview(bytearray(PAGE_BYTES))
    pack_segment(header, page)
    with _opened(segment.path, os.O_RDWR) as fd:
        os.pwrite(fd, page, 0)
        os.fdatasync(fd)


def _segment(path: Path, fingerprint: bytes, region: int) -> SegmentFile:
    page = memoryview(bytearray(PAGE_BYTES))
    with _opened(path, os.O_RDONLY) as fd:
        if not _fill(fd, page, 0):
            return SegmentFile(path, fingerprint, region, None, "its header cannot be read")
    version = other_version(page)
    if version is not None:
        raise FormatMismatch(
            str(path),
            f"format version {version}, where this tierd reads {FORMAT_VERSION}",
            "use the tierd that wrote it, or move the directory away and start empty",
        )
    header = unpack_segment(page)
    if isinstance(header, str):
        return SegmentFile(path, fingerprint, region, None, header)
    return SegmentFile(path, fingerprint, region, header)


def _fill(fd: int, target: memoryview, offset: int) -> bool:
    """Return whether all bytes of `target` could be read. A bad sector costs what is in it."""
    at = 0
    while at < len(target):
        try:
            got = os.preadv(fd, [target[at:]], offset + at)
        except OSError:
            return False
        if not got:
            return False
        at += got
    return True


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
