"""The caller's memory: whatever it is, one address a block.

Accepted are one contiguous buffer for all blocks (ndarray, torch tensor, bytearray, ...), a
sequence of buffers, one a block, or blocks in pieces (`Scattered`). Memory of a GPU is
`device_buffers.py`.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final

import numpy as np

from tierd.core.errors import InvalidRequest
from tierd.core.units import PAGE_BYTES, round_up

_SHARED_BYTES_MIN: Final = 8 << 20
"""Copies of more are made by two threads: one core alone does not use up the memory's rate."""

Copy = tuple[int, int, int]
"""Target address, source address, bytes."""

Piece = tuple[int, int, int]
"""An address, the place in the part of the bytes that belong there, and how many they are."""

_libc = ctypes.CDLL(None)
_libc.memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Buffers:
    """Where each block of a request lies in the caller's memory.

    Shapes: one buffer of at least `count * part_bytes` bytes, or at least `count` buffers of at
    least `part_bytes` bytes. `first` is the index of the first block that has a place here.

    Raises:
        InvalidRequest: it is none of these, or not contiguous, or too small, or read-only.
    """

    is_on_device = False
    takes_reads = True
    """Whether a medium can be read to the addresses, each of which then gets a whole part."""

    first = 0

    def __init__(self, given: Any, part_bytes: int, count: int, *, writable: bool) -> None:
        self.part_bytes = part_bytes
        self._tensors: list[Any] = []
        self._keep = given
        self.contiguous = False
        if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray | memoryview):
            if len(given) < count:
                raise InvalidRequest(
                    "buffers", f"{len(given)} buffers", f"give {count}, one a block"
                )
            self._addresses = [self._address(item, part_bytes, writable=writable) for item in given]
            return
        self.contiguous = True
        size = part_bytes * count
        base = self._address(given, size, writable=writable)
        self._addresses = list(range(base, base + size, part_bytes)) if size else []

    def address(self, index: int) -> int:
        """Return where a block starts, in CPU memory."""
        assert index >= self.first, (index, self.first)
        return self._addresses[index - self.first]

    def copies_into(self, index: int, offset: int, source: int, size: int) -> list[Copy]:
        """Return the copies of `size` bytes from `offset` of a part on, which are at `source`."""
        return [(self.address(index) + offset, source, size)]

    def copies_from(self, first: int, source: int, stride: int, count: int) -> list[Copy]:
        """Return the copies into blocks `first`, ... from slots `stride` bytes apart."""
        if self.contiguous:
            target, strides = self.address(first), (self.part_bytes, stride)
            return strided(target, source, self.part_bytes, count, strides)
        return [
            (self.address(first + index), source + index * stride, self.part_bytes)
            for index in range(count)
        ]

    def copies_to(self, first: int, target: int, stride: int, count: int) -> list[Copy]:
        """Return the copies from blocks `first`, ... to slots `stride` bytes apart."""
        turned = self.copies_from(first, target, stride, count)
        return [(there, here, length) for here, there, length in turned]

    def copy_all(self, copies: Sequence[Copy], helper: Executor | None) -> None:
        """Make copies into these buffers, or out of them: see `copy_all`."""
        copy_all(copies, helper)

    def reader(self, beside: Any) -> Any:
        """Return what reads segments into these buffers: `beside` itself, for CPU memory."""
        return beside

    def prepare(self, owner: object, address: int, size: int, background: Executor) -> None:
        """Make memory that will be copied from ready for it. That of the CPU is."""

    def _address(self, item: Any, size: int, *, writable: bool) -> int:
        if hasattr(item, "data_ptr"):
            return self._tensor_address(item, size)
        try:
            array = np.frombuffer(item, dtype=np.uint8)
        except (ValueError, TypeError, BufferError) as error:
            found = f"{type(item).__name__}: {error}"
            raise InvalidRequest("buffer", found, "give contiguous memory") from error
        _check_size(array.nbytes, size)
        if writable and not array.flags.writeable:
            raise InvalidRequest("buffer", "read-only", "give memory that can be written")
        return int(array.ctypes.data) if size else 0

    def _tensor_address(self, tensor: Any, size: int) -> int:
        if not tensor.is_contiguous():
            raise InvalidRequest("tensor", f"strides {tensor.stride()}", "give a contiguous one")
        if tensor.device.type != "cpu":
            raise InvalidRequest("tensor", f"on {tensor.device}", "give CPU memory, then copy")
        _check_size(tensor.numel() * tensor.element_size(), size)
        return int(tensor.data_ptr())


class Scattered(Buffers):
    """Blocks that lie in pieces in CPU memory, such as an engine's pages.

    Shapes: for each block its pieces, in any order: address, place in the part, bytes. What no
    piece names is left out, in memory and in the part. The memory must stay until the call that
    is given this has returned. Concurrency: one call at a time.
    """

    takes_reads = False

    def __init__(self, blocks: Sequence[Sequence[Piece]], part_bytes: int) -> None:
        super().__init__([], part_bytes, 0, writable=True)
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def copies_into(self, index: int, offset: int, source: int, size: int) -> list[Copy]:
        """Return the copies of `size` bytes from `offset` of a part on, which are at `source`."""
        copies = []
        for address, place, length in self._blocks[index - self.first]:
            start, end = max(place, offset), min(place + length, offset + size)
            if start < end:
                copies.append((address + start - place, source + start - offset, end - start))
        return copies

    def copies_from(self, first: int, source: int, stride: int, count: int) -> list[Copy]:
        """Return the copies into blocks `first`, ... from slots `stride` bytes apart."""
        size = self.part_bytes
        return [
            copy
            for at in range(count)
            for copy in self.copies_into(first + at, 0, source + at * stride, size)
        ]


def copy(target: int, source: int, length: int) -> None:
    """Copy `length` bytes between two addresses, without the interpreter's lock."""
    _libc.memmove(target, source, length)


def copy_all(copies: Sequence[Copy], helper: Executor | None) -> None:
    """Make every copy, half of the bytes in a thread of `helper` if there are many."""
    total = sum(length for _, _, length in copies)
    if helper is None or total < _SHARED_BYTES_MIN:
        _copy_each(copies)
        return
    mine, others = _halves(copies, round_up(total // 2, PAGE_BYTES))
    future = helper.submit(_copy_elsewhere, others, _libc.sched_getcpu())
    _copy_each(mine)
    future.result()


def strided(
    target: int, source: int, size: int, count: int, strides: tuple[int, int]
) -> list[Copy]:
    """Return the copies of `count` pieces of `size` bytes, one if both sides are contiguous."""
    if strides == (size, size):
        return [(target, source, count * size)]
    return [
        (target + index * strides[0], source + index * strides[1], size) for index in range(count)
    ]


def runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the (first, count) of every run of consecutive numbers in ascending `indices`."""
    first = previous = None
    for index in indices:
        if first is None or previous is None:
            first = previous = index
        elif index == previous + 1:
            previous = index
        else:
            yield first, previous - first + 1
            first = previous = index
    if first is not None and previous is not None:
        yield first, previous - first + 1


def _copy_each(copies: Sequence[Copy]) -> None:
    """Make copies one after the other, those at equal distances in one call.

    Between calls a thread needs the interpreter's lock, and may wait for it longer than it copies.
    """
    at = 0
    while at < len(copies):
        count = _equidistant(copies, at)
        target, source, length = copies[at]
        if count > 1:
            steps = (copies[at + 1][0] - target, copies[at + 1][1] - source)
            np.copyto(
                _rows(target, count, length, steps[0]), _rows(source, count, length, steps[1])
            )
        else:
            _libc.memmove(target, source, length)
        at += count


def _equidistant(copies: Sequence[Copy], at: int) -> int:
    """Return how many copies from `at` on are as long as the first, and as far from each other."""
    if at + 1 == len(copies):
        return 1
    target, source, length = copies[at]
    steps = (copies[at + 1][0] - target, copies[at + 1][1] - source)
    if min(steps) < length:
        return 1
    count = 1
    while at + count < len(copies) and copies[at + count] == (
        target + count * steps[0],
        source + count * steps[1],
        length,
    ):
        count += 1
    return count


def _rows(address: int, count: int, length: int, step: int) -> np.ndarray[Any, Any]:
    """Return `count` rows of memory of `length` bytes each, `step` bytes apart."""
    memory = memoryview((ctypes.c_char * ((count - 1) * step + length)).from_address(address))
    return np.ndarray((count, length), np.uint8, memory.cast("B"), strides=(step, 1))


def _copy_elsewhere(copies: Sequence[Copy], cpu: int) -> None:
    """Make copies on any core that this thread may use but `cpu`.

    A kernel can leave a thread where it was woken, next to the one that woke it, for as long as
    all of this takes, with another core idle.
    """
    allowed = os.sched_getaffinity(0)
    with suppress(OSError):  # There is only one, or a sandbox does not let us choose.
        os.sched_setaffinity(0, allowed - {cpu})
    try:
        _copy_each(copies)
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, allowed)


def _halves(copies: Sequence[Copy], wanted: int) -> tuple[list[Copy], list[Copy]]:
    """Split `copies` so that the first part has `wanted` bytes."""
    first: list[Copy] = []
    for index, (target, source, length) in enumerate(copies):
        if length < wanted:
            first.append((target, source, length))
            wanted -= length
            continue
        first.append((target, source, wanted))
        rest = (target + wanted, source + wanted, length - wanted)
        return first, [rest, *copies[index + 1 :]]
    return first, []


def _check_size(found: int, wanted: int) -> None:
    if found < wanted:
        raise InvalidRequest("buffer", f"{found} bytes", f"give at least {wanted}")
