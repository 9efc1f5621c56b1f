"""Segment files: one directory of them, and what blocking threads do with them.

Everything here blocks and is called in a volume's own threads, except construction and what
says otherwise. Files are opened for each piece of work and closed after it: that costs
microseconds beside a transfer of megabytes, and a daemon with a hundred thousand segments
needs no more file descriptors than it has threads.
"""

import errno
import logging
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Final, ParamSpec, TypeVar

from tierd.core.errors import FormatMismatch, TierOffline
from tierd.core.slots import (
    FORMAT_VERSION,
    SegmentHeader,
    other_version,
    pack_segment,
    parse_segment_name,
    segment_name,
    unpack_segment,
)
from tierd.core.units import PAGE_BYTES, format_bytes
from tierd.tiers.base import Probe

TIER: Final = "disk"

PIECE_SLOTS_MAX: Final = 512
"""Slots in one transfer: each takes two of the 1024 buffers that Linux allows a vector."""

_UNFINISHED = ".new"

_P = ParamSpec("_P")
_R = TypeVar("_R")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment file, there once `ready` has ended well. Only then may it be opened."""

    volume: "Volume"
    fingerprint: bytes
    region: int
    ready: "Future[None]"

    @property
    def path(self) -> Path:
        """Return where the file is. Not kept: a path takes as much memory as two blocks."""
        return self.volume.path(self.fingerprint, self.region)

    def has_failed(self) -> bool:
        """Say whether the segment could not be made."""
        return self.ready.done() and self.ready.exception() is not None


class Volume:
    """One directory of segments, with the threads that do its I/O.

    `segments` counts those that exist or are being made; its owner keeps it. `short_bytes` is the
    size of the last segment for which there was no space: less is not enough to write again.

    Raises:
        TierOffline: the directory cannot be made, or written.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        self.directory = directory
        self.segments = 0
        self.short_bytes = 0
        with faults_of(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._direct = _direct_flag(directory)
        self._pages = local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"tierd-{TIER}")

    def submit(self, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> "Future[_R]":
        """Queue blocking work. Concurrency: never waits; work starts in the order it came."""
        return self._pool.submit(work, *args, **kwargs)

    def path(self, fingerprint: bytes, region: int) -> Path:
        """Return where the segment of a region is, or would be."""
        return self.directory / segment_name(fingerprint, region)

    def scan(self) -> Iterator[tuple[Path, SegmentHeader]]:
        """Yield the segments in the directory. Files that are none are left alone.

        Raises:
            FormatMismatch: a segment is of another format version.
        """
        with faults_of(self.directory):
            for path in sorted(self.directory.iterdir()):
                if path.suffix == _UNFINISHED and parse_segment_name(path.stem):
                    path.unlink()
                elif parse_segment_name(path.name):
                    header = _stored_header(path)
                    if isinstance(header, SegmentHeader):
                        yield path, header

    def create(self, header: SegmentHeader) -> None:
        """Make a segment of its full size; whatever had its name is gone.

        The header is written under another name first, so that a crash leaves either no
        segment or a whole one.
        """
        path = self.path(header.fingerprint, header.region)
        unfinished = path.with_name(path.name + _UNFINISHED)
        size = PAGE_BYTES + header.region_slots * header.slot_stride_bytes
        try:
            with self.opened(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
                os.posix_fallocate(fd, 0, size)
                page = self.header_pages(1)[0]
                pack_segment(header, page)
                write_fully(fd, [page], 0)
            unfinished.rename(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                self.short_bytes = size
                room = f"no space left for a segment of {format_bytes(size)}"
                raise TierOffline(TIER, f"{self.directory}: {room}") from error
            raise TierOffline(TIER, f"{path}: {error.strerror}") from error

    def probe(self, segment: Path | None) -> Probe:
        """Write, sync and read a page, with as much room as was lacking; read one of `segment`."""
        path = self.directory / f"probe{_UNFINISHED}"
        page = self.header_pages(1)[0]
        try:
            with self.opened(segment or path, os.O_RDONLY | (0 if segment else os.O_CREAT)) as fd:
                read_fully(fd, [page], 0)
        except OSError as error:
            # A segment that somebody has removed says nothing about the directory.
            if segment is None or not isinstance(error, FileNotFoundError):
                cause = f"{segment or path}: {error.strerror}"
                return Probe(read_fault=cause, write_fault=cause)
        try:
            with self.opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
                os.posix_fallocate(fd, 0, max(PAGE_BYTES, self.short_bytes))
                write_fully(fd, [page], 0)
                os.fdatasync(fd)
                read_fully(fd, [page], 0)
            self.short_bytes = 0
        except OSError as error:
            return Probe(write_fault=f"{path}: {error.strerror}")
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return Probe()

    def remove(self, segment: Segment) -> None:
        """Unlink `segment` durably, once it is made. One that could not be made is fine.

        Durably, because its region may be made again in another directory: were the old file
        back after a power cut, it could be taken for the new one.
        """
        if segment.ready.exception() is None:
            with faults_of(segment.path):
                segment.path.unlink(missing_ok=True)
            self.sync_names()

    def sync_file(self, path: Path) -> None:
        """Make the bytes of a segment durable."""
        with self.opened(path, os.O_RDWR) as fd:
            os.fdatasync(fd)

    def sync_names(self) -> None:
        """Make new and removed segments of the directory durable."""
        with faults_of(self.directory):
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    @contextmanager
    def opened(self, path: Path, flags: int) -> Iterator[int]:
        """Open a segment for as long as the block runs, past the page cache where that works."""
        fd = self.open(path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def open(self, path: Path, flags: int) -> int:
        """Return a descriptor of a segment, which the caller closes."""
        return os.open(path, flags | self._direct | os.O_CLOEXEC, 0o600)

    def header_pages(self, count: int) -> list[memoryview]:
        """Return page-aligned pages of the calling thread, its own until it asks again."""
        assert count <= PIECE_SLOTS_MAX, count
        if not hasattr(self._pages, "pages"):
            memory = memoryview(mmap.mmap(-1, PIECE_SLOTS_MAX * PAGE_BYTES))
            starts = range(0, len(memory), PAGE_BYTES)
            self._pages.pages = [memory[at : at + PAGE_BYTES] for at in starts]
        pages: list[memoryview] = self._pages.pages
        return pages[:count]

    def close(self) -> None:
        """Return when all queued work is done and the threads have ended."""
        self._pool.shutdown()


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Turn a fault of the operating system into the tier's."""
    try:
        yield
    except OSError as error:
        raise TierOffline(TIER, f"{path}: {error.strerror}") from error


def read_fully(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill `buffers` from `offset` on; return how many bytes the file had for them."""
    rest = list(buffers)
    total = 0
    while rest and (got := os.preadv(fd, rest, offset + total)):
        total += got
        if got % PAGE_BYTES:  # only the end of a file is not on a page
            break
        rest = _after(rest, got)
    return total


def write_fully(fd: int, buffers: Sequence[memoryview], offset: int) -> None:
    """Write all of `buffers` at `offset`."""
    rest = list(buffers)
    while rest:
        written = os.pwritev(fd, rest, offset)
        if not written:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        offset += written
        rest = _after(rest, written)


def _after(buffers: list[memoryview], count: int) -> list[memoryview]:
    while buffers and count >= len(buffers[0]):
        count -= len(buffers[0])
        buffers = buffers[1:]
    return [buffers[0][count:], *buffers[1:]] if buffers else []


def _stored_header(path: Path) -> SegmentHeader | str:
    with path.open("rb", buffering=0) as file:
        page = memoryview(file.read(PAGE_BYTES))
    version = other_version(page)
    if version is not None:
        raise FormatMismatch(
            str(path),
            f"format version {version}, where this tierd reads {FORMAT_VERSION}",
            "run the tierd that wrote it, or move the directory away and start empty",
        )
    header = unpack_segment(page)
    if isinstance(header, str):
        log.warning("%s is left alone: %s", path, header)
    return header


def _direct_flag(directory: Path) -> int:
    """Return O_DIRECT where the directory's file system takes it, and 0 where it does not."""
    probe = directory / f"probe{_UNFINISHED}"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    os.close(os.open(probe, flags, 0o600))
    try:
        os.close(os.open(probe, flags | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        log.warning("%s does not take O_DIRECT: using the page cache", directory)
        return 0
    finally:
        probe.unlink()
    return os.O_DIRECT
