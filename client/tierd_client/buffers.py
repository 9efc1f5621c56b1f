"""The caller's memory: whatever it is, one address a block.

Accepted are one contiguous buffer for all blocks (ndarray, torch tensor, bytearray, ...) or a
sequence of buffers, one a block. Tensors in GPU memory are copied by torch.
"""

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from tierd.core.errors import InvalidRequest

_COPY_BYTES_MAX: Final = 64 << 20
"""At most so much in one memmove, so that a deadline is looked at in between."""

_libc = ctypes.CDLL(None)
_libc.memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Buffers:
    """Where each block of a request lies in the caller's memory.

    Shapes: one buffer of at least `count * part_bytes` bytes, or at least `count` buffers of at
    least `part_bytes` bytes.

    Raises:
        InvalidRequest: it is none of these, or not contiguous, or too small, or read-only.
    """

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
        return self._addresses[index]

    def view(self, index: int) -> memoryview:
        """Return a block's bytes as a writable view."""
        array = (ctypes.c_char * self.part_bytes).from_address(self._addresses[index])
        return memoryview(array).cast("B")

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


def copy(target: int, source: int, length: int) -> None:
    """Copy `length` bytes between two addresses, without the interpreter's lock."""
    for at in range(0, length, _COPY_BYTES_MAX):
        _libc.memmove(target + at, source + at, min(_COPY_BYTES_MAX, length - at))


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


def _check_size(found: int, wanted: int) -> None:
    if found < wanted:
        raise InvalidRequest("buffer", f"{found} bytes", f"give at least {wanted}")
