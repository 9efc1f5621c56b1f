"""Whether the bytes in GPU memory are those of a slot's header.

By sums that the GPU computes, where the header has them and torch can run there; else by copying
the bytes back and checking them as they are on the CPU.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from tierd.core.slots import SlotHeader, check_part, check_sums
from tierd_client.cuda_driver import CudaDriver
from tierd_client.device_buffers import DeviceMemory

Verify = Callable[[SlotHeader, int, DeviceMemory], str | None]
"""Says why the bytes in GPU memory are not those of the header's part, or None if they are."""

SumsOf = Callable[[DeviceMemory, int], bytes]
"""Returns the page sums of GPU memory; the number is the GPU's.

Raises:
    NoRoom: the GPU has no memory left to compute them.
"""


class NoRoom(Exception):
    """A GPU has no memory left."""


class CopyBack:
    """Verifies parts in GPU memory on the CPU.

    Units: costs a copy of every byte back over the bus, and the checksum of it on one core.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._mine = threading.local()
        self._rooms: list[tuple[int, int]] = []

    def verify_device(self, header: SlotHeader, shard: int, memory: DeviceMemory) -> str | None:
        """Return why `memory` does not hold the part of a shard, or None if it does."""
        device = self._driver.device_of(memory.address)
        with self._driver.on_device(device):
            room = self._room(device, memory.size)
            self._driver.copy_to_host(room, memory.address, memory.size)
        copied = (ctypes.c_char * memory.size).from_address(room)
        return check_part(header, shard, memoryview(copied).cast("B"))

    def close(self) -> None:
        """Give the pinned memory back. Nothing may be verified any more."""
        while self._rooms:
            device, room = self._rooms.pop()
            with self._driver.on_device(device):
                self._driver.free_pinned(room)

    def _room(self, device: int, size: int) -> int:
        """Return pinned memory of the calling thread."""
        if getattr(self._mine, "size", 0) < size:
            self._mine.room, self._mine.size = self._driver.pinned(size), size
            self._rooms.append((device, self._mine.room))
        return int(self._mine.room)


class SumsOnDevice:
    """Verifies parts by sums that their GPU computes. What it cannot verify, `otherwise` does."""

    def __init__(self, driver: CudaDriver, sums_of: SumsOf, otherwise: Verify) -> None:
        self._driver = driver
        self._sums_of = sums_of
        self._otherwise = otherwise

    def verify_device(self, header: SlotHeader, shard: int, memory: DeviceMemory) -> str | None:
        """Return why `memory` does not hold the part of a shard, or None if it does."""
        if not header.sums:  # A slot of format version 1.
            return self._otherwise(header, shard, memory)
        try:
            sums = self._sums_of(memory, self._driver.device_of(memory.address))
        except NoRoom:
            return self._otherwise(header, shard, memory)
        return check_sums(header, shard, sums)


class TorchSums:
    """Computes page sums by torch. Concurrency: any thread.

    Units: holds 8 MiB on the GPU while it does; 8 bytes a page come back.

    Stream: one of its own, ahead of others, so as not to wait for what the engine has queued.
    """

    def __init__(self) -> None:
        self._streams: dict[int, Any] = {}

    def __call__(self, memory: DeviceMemory, device: int) -> bytes:
        """Return the page sums of `memory`, which nobody writes to meanwhile."""
        import torch

        from tierd_client.cuda_sums import page_sums

        if device not in self._streams:
            stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
            self._streams.setdefault(device, stream)
        try:
            with torch.cuda.stream(self._streams[device]):
                return page_sums(torch.as_tensor(memory, device=f"cuda:{device}"))
        except torch.cuda.OutOfMemoryError as error:
            raise NoRoom from error


def verifier(driver: CudaDriver, copy_back: CopyBack) -> Verify:
    """Return the best way to verify that this process has."""
    try:
        import torch
    except ImportError:
        return copy_back.verify_device
    if not torch.cuda.is_available():
        return copy_back.verify_device
    return SumsOnDevice(driver, TorchSums(), copy_back.verify_device).verify_device
