"""Arenas: shared memory cut into slots, which local clients map and read in place.

An arena is one memfd for one namespace, as large as its tier may grow and empty at first: pages
come when a region is prepared, and go back when it is reclaimed.
"""

import ctypes
import mmap
import os
from threading import Event
from typing import Final

from tierd.core.units import MiB

_POPULATE_WRITE: Final = 23
_PIECE_BYTES: Final = 16 * MiB
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Arena:
    """A run of bytes in shared memory.

    Concurrency: `populate` and `punch` may run in any thread, beside readers and writers.
    """

    def __init__(self, name: str, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        self._map = mmap.mmap(self.descriptor, size)
        # Huge pages where the kernel gives them: mapping them is some 100 times cheaper.
        self._map.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def view(self, start: int, length: int) -> memoryview:
        """Return a writable view of some bytes. It must be dropped before `close`."""
        return self._view[start : start + length]

    def address(self, start: int) -> int:
        """Return where a byte lies in this process."""
        return self._address + start

    def populate(self, start: int, length: int, stop: Event) -> None:
        """Fault the pages in, so that nobody waits for it later. Ends early on `stop`.

        Without room for the pages they stay as they are: the first writer waits instead.
        """
        for at in range(start, start + length, _PIECE_BYTES):
            if stop.is_set():
                return
            piece = min(_PIECE_BYTES, start + length - at)
            # Not mmap.madvise, which holds the interpreter's lock meanwhile.
            _libc.madvise(self._address + at, piece, _POPULATE_WRITE)

    def punch(self, start: int, length: int) -> None:
        """Give the pages back to the system. They read as zeros from now on."""
        self._map.madvise(mmap.MADV_REMOVE, start, length)

    def close(self) -> None:
        """Close the descriptor. The mapping goes with its last view; clients keep theirs."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
