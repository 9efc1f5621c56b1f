"""The direct route into GPU memory: neighbouring slots of a segment, by kvikio.

With GPUDirect Storage the bytes go from the disk to the GPU; without, kvikio takes them through
pinned host memory ("compatibility mode"), and `DirectReader.label` says which it is. Bytes count
only if the slot's header names the block and the checksum is right. Leases, and what becomes of
a part that could not be read, are left to the caller.
"""

import ctypes
import mmap
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib import import_module
from math import prod
from typing import Any, Final, Literal

from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import SlotHeader, check_header, check_part, slot_stride_bytes
from tierd.core.units import PAGE_BYTES, KiB, MiB
from tierd_client.cuda_driver import CudaDriver, CudaFault

_WINDOW_BYTES: Final = 64 * MiB
"""Asked of kvikio at a time: enough to keep it busy, and little to wait for past a deadline."""

_READ_FAULTS: Final = (RuntimeError, OSError, ValueError)
"""What exceptions of kvikio's C++ become."""

Label = Literal["gds", "compat"]


@dataclass(frozen=True, slots=True)
class GdsSettings:
    """How kvikio reads. Its settings are the process's, so all readers should agree on them.

    Only `task_bytes` goes with each call. `mode` is "auto", or insists on one of the labels. A
    bounce buffer holds one task: more of it would never be filled. `gds_min_bytes` is kvikio's
    own: below it, GPUDirect does not pay, and a part is read before the next is begun.
    """

    mode: Literal["auto", "gds", "compat"] = "auto"
    threads: int = 4
    task_bytes: int = 4 * MiB
    bounce_bytes: int = 4 * MiB
    gds_min_bytes: int = 16 * KiB
    reads_max: int = 4
    segments_max: int = 64


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


@dataclass(frozen=True, slots=True)
class SlotRun:
    """One part of the blocks `keys`, which lie in neighbouring slots of an open segment.

    Units: `start` is the offset of the first slot's header page.
    """

    descriptor: int
    start: int
    keys: Sequence[BlockKey]
    part: int = 0


Verify = Callable[[SlotHeader, int, DeviceMemory], str | None]
"""Says why the bytes in GPU memory are not those of the header's part, or None if they are."""


class CopyBack:
    """Verifies parts in GPU memory on the CPU.

    Units: costs a copy of every byte back over the bus, and the checksum of it on one core. A
    checksum that runs on the GPU would cost neither.
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


class DirectReader:
    """Reads slots of one namespace into GPU memory. Concurrency: any thread.

    Stream: when `read` returns, the bytes are there for every stream. What was queued before and
    uses the memory has to be done: the reader waits for nothing of the caller's.

    Raises:
        InvalidRequest: there is no GPU, or no kvikio.
    """

    def __init__(
        self, layout: LayoutSpec, settings: GdsSettings, verify_device: Verify | None = None
    ) -> None:
        self._layout = layout
        self._driver = CudaDriver()
        self._kvikio = _configured(settings)
        self._copy_back = CopyBack(self._driver)
        self._verify = verify_device or self._copy_back.verify_device
        self._settings = settings
        self._window = max(2, _WINDOW_BYTES // layout.part_bytes)
        self._files: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._files_lock = threading.Lock()
        self._late: set[Future[None]] = set()
        self._threads = ThreadPoolExecutor(settings.reads_max, "tierd-gds")

    @property
    def label(self) -> Label:
        """Say whether bytes go straight to the GPU, or through host memory.

        kvikio decides anew for each file, and then prefers to work; so "gds" means that the
        machine has it, not that the file's device takes part.
        """
        if self._kvikio.defaults.is_compat_mode_preferred():
            return "compat"
        # Without its kernel module cuFile goes through host memory by itself.
        return "gds" if self._kvikio.cufile_driver.get("is_gds_available") else "compat"

    def read(self, run: SlotRun, target: Any, until_s: float) -> list[str]:
        """Fill `target` with the parts of `run`; return for each what is wrong, "" if nothing.

        Shapes: target [len(run.keys), part_bytes], contiguous GPU memory: anything with
        `__cuda_array_interface__`, or a `DeviceMemory`. Parts that went wrong are undefined.

        Cancellation: a read under way cannot be called back. Parts that came too late are
        "deadline", and until `settle` says so, `target` may still be written to.

        Raises:
            InvalidRequest: `target` is not contiguous GPU memory, or too small.
        """
        memory = device_memory(target, len(run.keys) * self._layout.part_bytes)
        causes = ["deadline"] * len(run.keys)
        remaining_s = until_s - time.monotonic()
        if remaining_s <= 0 or not run.keys:
            return causes
        try:
            # A read that is late may outlive the caller's descriptor, whose number is used again.
            run = replace(run, descriptor=os.dup(run.descriptor))
        except OSError as error:
            return [str(error)] * len(causes)
        job = self._threads.submit(self._read, run, (target, memory), until_s, causes)
        _, waiting = wait([job], remaining_s)
        if not waiting:
            job.result()
        elif job.cancel():
            os.close(run.descriptor)
        else:
            self._late.add(job)
            job.add_done_callback(self._late.discard)
        return list(causes)

    def settle(self, until_s: float) -> bool:
        """Wait for reads that missed their deadline; say whether all memory is quiet now."""
        _, waiting = wait(list(self._late), max(0.0, until_s - time.monotonic()))
        return not waiting

    def forget(self, descriptor: int) -> None:
        """Let go of a segment, so that its disk space can be given back when it is removed."""
        with self._files_lock:
            self._files.pop(_identity(descriptor), None)

    def close(self) -> None:
        """Wait for every read that was started, then give back files and memory."""
        self._threads.shutdown()
        self._files.clear()
        self._copy_back.close()

    # What follows runs in the reader's threads.

    def _read(
        self, run: SlotRun, given: tuple[Any, DeviceMemory], until_s: float, causes: list[str]
    ) -> None:
        """Open the segment and read it, or say why it does not open.

        `given` has the caller's object, too, so that it lives for as long as it is written to.
        """
        try:
            file = self._open(run.descriptor)
        except _READ_FAULTS as error:
            causes[:] = [str(error)] * len(causes)
        else:
            self._read_file(file, run, given[1], until_s, causes)
        finally:
            os.close(run.descriptor)

    def _read_file(
        self, file: Any, run: SlotRun, memory: DeviceMemory, until_s: float, causes: list[str]
    ) -> None:
        """Keep a window of reads under way, and finish them in order."""
        started: deque[_Started] = deque()
        try:
            for index in range(len(run.keys)):
                if time.monotonic() >= until_s:
                    break
                started.append(self._start(file, run, index, memory))
                if len(started) >= self._window:
                    self._finish(run, started.popleft(), causes)
            while started:
                self._finish(run, started.popleft(), causes)
        finally:
            for left in started:
                left.outcome()

    def _start(self, file: Any, run: SlotRun, index: int, memory: DeviceMemory) -> "_Started":
        size = self._layout.part_bytes
        slot = run.start + index * slot_stride_bytes(self._layout)
        start = slot + PAGE_BYTES + run.part * self._layout.part_stride_bytes
        target = memory.part(index * size, size)
        try:
            # A small part is read before this returns, so this may fail as `outcome` may.
            future = file.pread(target, size, start, self._settings.task_bytes)
        except _READ_FAULTS as error:
            future = str(error)
        return _Started(index, slot, target, future)

    def _finish(self, run: SlotRun, started: "_Started", causes: list[str]) -> None:
        try:
            header = self._header(run.descriptor, started.slot, run.keys[started.index])
        finally:
            # Even if the slot is another block's: nothing may be written after we return.
            got = started.outcome()
        if isinstance(header, str):
            cause = header
        elif isinstance(got, str):
            cause = got
        elif got != started.target.size:
            cause = f"{got} of {started.target.size} bytes"
        else:
            cause = self._fault(header, run.part, started.target)
        causes[started.index] = cause

    def _header(self, descriptor: int, start: int, key: BlockKey) -> SlotHeader | str:
        page = mmap.mmap(-1, PAGE_BYTES)  # O_DIRECT wants whole pages
        try:
            got = os.preadv(descriptor, [page], start)
        except OSError as error:
            return str(error)
        if got < PAGE_BYTES:
            return f"{got} of the {PAGE_BYTES} bytes of the header"
        return check_header(memoryview(page), key, self._layout)

    def _fault(self, header: SlotHeader, part: int, memory: DeviceMemory) -> str:
        try:
            return self._verify(header, part, memory) or ""
        except CudaFault as error:
            return str(error)

    def _open(self, descriptor: int) -> Any:
        """Return the segment as kvikio's file, which stays open.

        A file is known by device and inode: a descriptor's number is soon another file's, and an
        inode's is not while the file is open. A file that leaves the cache in the middle of a
        read is closed with its last use.
        """
        identity = _identity(descriptor)
        with self._files_lock:
            file = self._files.get(identity)
            if file is None:
                # Opens the very file that the descriptor is of, whatever has its name now.
                file = self._kvikio.CuFile(f"/proc/self/fd/{descriptor}", "r")
                self._files[identity] = file
            self._files.move_to_end(identity)
            while len(self._files) > self._settings.segments_max:
                self._files.popitem(last=False)
        return file


@dataclass(frozen=True, slots=True)
class _Started:
    """One part that kvikio is reading, or why it is not.

    Units: `slot` is the offset of the header page.
    """

    index: int
    slot: int
    target: DeviceMemory
    future: Any | str

    def outcome(self) -> int | str:
        """Return how many bytes came, or why none did; either way no more will be written."""
        if isinstance(self.future, str):
            return self.future
        try:
            return int(self.future.get())
        except _READ_FAULTS as error:
            return str(error)


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


def _configured(settings: GdsSettings) -> Any:
    """Return kvikio with every setting that we rely on made explicit."""
    try:
        kvikio = import_module("kvikio")
        for module in ("cufile_driver", "defaults"):
            import_module(f"kvikio.{module}")
    except ImportError as error:
        value, remedy = f"direct into GPU memory ({error})", "pip install 'tierd[gpu]'"
        raise InvalidRequest("route", value, remedy) from error
    modes = kvikio.CompatMode
    kvikio.defaults.set(
        {
            "compat_mode": {"auto": modes.AUTO, "gds": modes.OFF, "compat": modes.ON}[
                settings.mode
            ],
            "num_threads": settings.threads,
            "gds_threshold": settings.gds_min_bytes,
            "bounce_buffer_size": settings.bounce_bytes,
            "auto_direct_io_read": True,
        }
    )
    return kvikio


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
