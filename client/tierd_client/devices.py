"""What this process does with its GPUs: one object for all clients, as driver and kvikio are one.

Buffers that are a GPU's know here how to be copied to and read into. Without kvikio, reads from
disk go through memory of the CPU; without a driver nothing is possible.
"""

import threading
from functools import lru_cache
from typing import Any

from tierd.core.errors import InvalidRequest
from tierd_client.buffers import Buffers, Scattered
from tierd_client.cuda_driver import CudaDriver
from tierd_client.device_buffers import DeviceBuffers, DeviceCopies, is_on_device
from tierd_client.device_segments import BouncedReader, DeviceReader, DeviceSegmentReader
from tierd_client.gds import DirectReader, GdsSettings
from tierd_client.segments import SegmentReader


class Devices:
    """The GPUs of this process. Concurrency: any thread.

    Raises:
        InvalidRequest: there is no driver, or no GPU.
    """

    def __init__(self) -> None:
        self._copies = DeviceCopies(CudaDriver())
        self._lock = threading.Lock()
        self._direct: dict[bytes, DirectReader | None] = {}

    def buffers(self, given: Any, part_bytes: int, count: int) -> DeviceBuffers:
        """Return where each block of a request lies in GPU memory.

        Raises:
            InvalidRequest: it is not a GPU's, or not contiguous, or too small, or of several GPUs.
        """
        return DeviceBuffers(given, part_bytes, count, self._copies, self.reader)

    def reader(self, beside: SegmentReader) -> DeviceReader:
        """Return what reads the same parts as `beside` does, into GPU memory."""
        layout = beside.layout
        with self._lock:
            if layout.fingerprint not in self._direct:
                try:
                    self._direct[layout.fingerprint] = DirectReader(layout, GdsSettings())
                except InvalidRequest:  # There is no kvikio.
                    self._direct[layout.fingerprint] = None
            direct = self._direct[layout.fingerprint]
        if direct is None:
            return BouncedReader(beside, self._copies)
        return DeviceSegmentReader(direct, beside)


@lru_cache(maxsize=1)
def devices() -> Devices:
    """Return the GPUs of this process.

    Raises:
        InvalidRequest: there is no driver, or no GPU.
    """
    return Devices()


def buffers_of(given: Any, part_bytes: int, count: int, *, writable: bool) -> Buffers:
    """Return where each block of a request lies, in a GPU's memory or the CPU's.

    Raises:
        InvalidRequest: the memory will not do: see `Buffers` and `DeviceBuffers`.
    """
    if isinstance(given, Scattered):
        if given.part_bytes != part_bytes or len(given) < count:
            found = f"{len(given)} blocks of {given.part_bytes} bytes"
            raise InvalidRequest("buffers", found, f"give {count} of {part_bytes}")
        return given
    if is_on_device(given):
        return devices().buffers(given, part_bytes, count)
    return Buffers(given, part_bytes, count, writable=writable)
