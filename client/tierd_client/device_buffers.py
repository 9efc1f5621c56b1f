"""The caller's memory on a GPU, and copies into it and out of it, from pages pinned for them.

Accepted is what has `__cuda_array_interface__` (torch, cupy, numba, ...): one contiguous buffer
for all blocks, or a sequence of them, one a block. Reading from disk into it is `gds.py`.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

from tierd.core.errors import InvalidRequest
from tierd_client.buffers import Buffers, Copy
from tierd_client.cuda_driver import CudaDriver, CudaFault
from tierd_client.segments import SegmentReader


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A contiguous run of GPU memory. Units: `size` in bytes."""

    address: int
    size: int

    def part(self, start: int, size: int) -> "DeviceMemory":
        """Return the `size` bytes from byte `start` on."""
        assert 0 <= start <= start + size <= self.size, (start, size, self.size)
        return DeviceMemory(self.address + start, size)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.address, False)
        return {"shape": (self.size,), "typestr": "|u1", "data": data, "version": 3}


def device_memory(target: Any, size: int) -> DeviceMemory:
    """Return the `size` first bytes of contiguous GPU memory, whatever library it is from.

    Raises:
        InvalidRequest: it is something else, or smaller.
    """
    if getattr(target, "is_cuda", False):  # torch, some of whose types the interface lacks
        contiguous, address = target.is_contiguous(), target.data_ptr()
        found = target.numel() * target.element_size()
    elif hasattr(target, "__cuda_array_interface__"):
        interface = target.__cuda_array_interface__
        contiguous, address = interface.get("strides") is None, interface["data"][0]
        found = prod(interface["shape"]) * int(interface["typestr"][2:])
    else:
        raise InvalidRequest("memory", type(target).__name__, "give memory of a GPU")
    if not contiguous:
        raise InvalidRequest("memory", "strided", "give contiguous memory")
    if found < size:
        raise InvalidRequest("memory", f"{found} bytes", f"give at least {size}")
    return DeviceMemory(int(address), size)


def is_on_device(given: Any) -> bool:
    """Say whether a caller's memory, one buffer or the first of a sequence, is a GPU's."""
    if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray | memoryview):
        given = given[0] if given else b""
    return bool(getattr(given, "is_cuda", False)) or hasattr(given, "__cuda_array_interface__")


class DeviceCopies:
    """Copies into GPU memory and out of it.

    Concurrency: any thread; copies of one GPU go one after another.

    Stream: a stream of its own, which is waited for. What the caller queued before, and uses the
    memory, has to be done.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._streams: dict[int, int] = {}
        self._pinned: set[int] = set()

    def device_of(self, addresses: Sequence[int]) -> int:
        """Return the number of the GPU that has all of these in its memory.

        Raises:
            InvalidRequest: there is none.
        """
        try:
            devices = {self._driver.device_of(address) for address in addresses}
        except CudaFault as error:
            raise InvalidRequest("memory", str(error), "give memory of a GPU") from error
        if len(devices) > 1:
            raise InvalidRequest("memory", f"of GPUs {sorted(devices)}", "give memory of one")
        return devices.pop() if devices else 0

    def copy_all(self, copies: Sequence[Copy], device: int) -> None:
        """Make every copy, between memory of a GPU and the host's or any GPU's.

        Raises:
            CudaFault: the driver refused. The targets are undefined.
        """
        if not copies:
            return
        with self._driver.on_device(device):
            stream = self._stream(device)
            try:
                for target, source, length in copies:
                    self._driver.copy(target, source, length, stream)
            finally:
                # Even after a fault: nothing may be written once we return.
                self._driver.wait_for(stream)

    def pin(self, owner: object, device: int, address: int, size: int) -> None:
        """Lock whole pages of host memory, for as long as `owner` lives; later calls do nothing.

        Copies from memory that is not locked, or cannot be, are made twice by the driver.
        """
        with self._lock:
            if address in self._pinned:
                return
            self._pinned.add(address)
        with suppress(CudaFault), self._driver.on_device(device):
            self._driver.register(address, size)
            weakref.finalize(owner, self._unpin, device, address).atexit = False

    def has_pinned(self, address: int) -> bool:
        """Say whether the pages from here on were locked, or are being so."""
        return address in self._pinned

    def _unpin(self, device: int, address: int) -> None:
        with suppress(CudaFault), self._driver.on_device(device):
            self._driver.unregister(address)
        self._pinned.discard(address)

    def _stream(self, device: int) -> int:
        with self._lock:
            if device not in self._streams:
                self._streams[device] = self._driver.stream()
            return self._streams[device]


class DeviceBuffers(Buffers):
    """Where each block of a request lies in the memory of one GPU.

    Raises:
        InvalidRequest: it is not a GPU's, or not contiguous, or too small, or of several GPUs.
    """

    is_on_device = True

    def __init__(
        self,
        given: Any,
        part_bytes: int,
        count: int,
        copies: DeviceCopies,
        reader_of: Callable[[SegmentReader], Any],
    ) -> None:
        super().__init__(given, part_bytes, count, writable=True)
        self._copies = copies
        self._reader_of = reader_of
        self._device = copies.device_of([self.address(index) for index in range(count)])

    def copy_all(self, copies: Sequence[Copy], helper: Executor | None) -> None:
        """Make copies into these buffers, or out. One thread is enough: the GPU copies.

        Raises:
            CudaFault: the GPU does not answer.
        """
        self._copies.copy_all(copies, self._device)

    def reader(self, beside: SegmentReader) -> Any:
        """Return what reads into these buffers the parts that `beside` reads."""
        return self._reader_of(beside)

    def prepare(self, owner: object, address: int, size: int, background: Executor) -> None:
        """Have memory that will be copied from locked, for as long as its owner lives."""
        if not self._copies.has_pinned(address):
            background.submit(self._copies.pin, owner, self._device, address, size)

    def _address(self, item: Any, size: int, *, writable: bool) -> int:
        return device_memory(item, size).address
