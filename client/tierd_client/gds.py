"""The direct route into GPU memory: neighbouring slots of a segment, by kvikio.

With GPUDirect Storage the bytes go from the disk to the GPU; without, kvikio takes them through
pinned host memory ("compatibility mode"), and `DirectReader.label` says which it is. Bytes count
only if the slot's header names the block and the checksum is right. Leases, and what becomes of
a part that could not be read, are left to the caller.
"""

import math
import mmap
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Literal

from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import SlotHeader, check_header, slot_stride_bytes
from tierd.core.units import PAGE_BYTES, KiB, MiB
from tierd_client.cuda_driver import CudaDriver
from tierd_client.cuda_verify import CopyBack, Verify, verifier
from tierd_client.device_buffers import DeviceMemory, device_memory

_WINDOW_BYTES: Final = 64 * MiB
"""Asked of kvikio at a time: enough to keep it busy, and little to wait for past a deadline."""

_READ_FAULTS: Final = (RuntimeError, OSError, ValueError)
"""What exceptions of kvikio's C++ become, and what the driver's faults are."""

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
class SlotRun:
    """One part of the blocks `keys`, which lie in neighbouring slots of an open segment.

    Units: `start` is the offset of the first slot's header page.
    """

    descriptor: int
    start: int
    keys: Sequence[BlockKey]
    part: int = 0


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
        self._verify = verify_device or verifier(self._driver, self._copy_back)
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
        size = self._layout.part_bytes
        memory = device_memory(target, len(run.keys) * size)
        targets = [memory.part(index * size, size) for index in range(len(run.keys))]
        return self._submit(_Read(run, targets, until_s, keep=target))[0]

    def read_each(self, run: SlotRun, targets: Sequence[int]) -> list[str]:
        """Fill memory at each address of `targets` with a part of `run`; return as `read` does.

        There is no deadline: when this returns, nothing is written any more.

        Raises:
            OSError: the file, or the GPU, does not answer. What is wrong is not the bytes.
        """
        size = self._layout.part_bytes
        memories = [DeviceMemory(address, size) for address in targets]
        causes, unanswered = self._submit(_Read(run, memories, math.inf))
        if unanswered:
            raise OSError(unanswered)
        return causes

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

    def _submit(self, read: "_Read") -> tuple[list[str], str]:
        """Have a thread of ours read, and wait for it until the deadline."""
        found = _Found(["deadline"] * len(read.run.keys))
        remaining_s = read.until_s - time.monotonic()
        if remaining_s <= 0 or not read.run.keys:
            return found.causes, ""
        try:
            # A read that is late may outlive the caller's descriptor, whose number is used again.
            descriptor = os.dup(read.run.descriptor)
        except OSError as error:
            return [str(error)] * len(read.run.keys), str(error)
        read = replace(read, run=replace(read.run, descriptor=descriptor))
        job = self._threads.submit(self._read, read, found)
        _, waiting = wait([job], None if remaining_s == math.inf else remaining_s)
        if not waiting:
            job.result()
        elif job.cancel():
            os.close(descriptor)
        else:
            self._late.add(job)
            job.add_done_callback(self._late.discard)
        return list(found.causes), found.unanswered

    # What follows runs in the reader's threads.

    def _read(self, read: "_Read", found: "_Found") -> None:
        """Open the segment and read it, or say why it does not open."""
        try:
            file = self._open(read.run.descriptor)
        except _READ_FAULTS as error:
            found.causes[:] = [found.no_answer(error)] * len(found.causes)
        else:
            self._read_file(file, read, found)
        finally:
            os.close(read.run.descriptor)

    def _read_file(self, file: Any, read: "_Read", found: "_Found") -> None:
        """Keep a window of reads under way, and finish them in order."""
        started: deque[_Started] = deque()
        try:
            for index in range(len(found.causes)):
                if time.monotonic() >= read.until_s:
                    break
                started.append(self._start(file, read, index))
                if len(started) >= self._window:
                    self._finish(read.run, started.popleft(), found)
            while started:
                self._finish(read.run, started.popleft(), found)
        finally:
            for left in started:
                left.settle()

    def _start(self, file: Any, read: "_Read", index: int) -> "_Started":
        run, target = read.run, read.targets[index]
        slot = run.start + index * slot_stride_bytes(self._layout)
        start = slot + PAGE_BYTES + run.part * self._layout.part_stride_bytes
        if start + target.size > os.fstat(run.descriptor).st_size:
            # kvikio takes the end of the file for a device that fails.
            return _Started(index, slot, target, _CutShort())
        try:
            # A small part is read before this returns, so this may fail as `outcome` may.
            future = file.pread(target, target.size, start, self._settings.task_bytes)
        except _READ_FAULTS as error:
            future = _Failed(str(error))
        return _Started(index, slot, target, future)

    def _finish(self, run: SlotRun, started: "_Started", found: "_Found") -> None:
        try:
            cause = self._cause(run, started)
        except _READ_FAULTS as error:
            cause = found.no_answer(error)
        found.causes[started.index] = cause

    def _cause(self, run: SlotRun, started: "_Started") -> str:
        """Return what is wrong with the bytes of one part, once all of them have come."""
        try:
            header = self._header(run.descriptor, started.slot, run.keys[started.index])
        except OSError:
            started.settle()
            raise
        got = started.outcome()  # Waited for in any case: nothing may be written after we return.
        if isinstance(header, str):
            return header
        if got != started.target.size:
            return f"{got} of {started.target.size} bytes"
        return self._verify(header, run.part, started.target) or ""

    def _header(self, descriptor: int, start: int, key: BlockKey) -> SlotHeader | str:
        page = mmap.mmap(-1, PAGE_BYTES)  # O_DIRECT wants whole pages
        got = os.preadv(descriptor, [page], start)
        if got < PAGE_BYTES:
            return f"{got} of the {PAGE_BYTES} bytes of the header"
        return check_header(memoryview(page), key, self._layout)

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
class _Read:
    """What one call asks for. `keep` is the caller's object, which lives for as long as this."""

    run: SlotRun
    targets: Sequence[DeviceMemory]
    until_s: float
    keep: Any = None


@dataclass(slots=True)
class _Found:
    """What came of a read so far: what is wrong with each part, and who gave no answer at all."""

    causes: list[str]
    unanswered: str = ""

    def no_answer(self, error: Exception) -> str:
        self.unanswered = str(error) or type(error).__name__
        return self.unanswered


class _CutShort:
    """A read past the end of the file."""

    def get(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class _Failed:
    """A read that failed before kvikio had a future for it.

    Not the exception itself: through its frames it would keep the file open, until some later day.
    """

    cause: str

    def get(self) -> int:
        raise OSError(self.cause)


@dataclass(frozen=True, slots=True)
class _Started:
    """One part that kvikio is reading. Units: `slot` is the offset of the header page."""

    index: int
    slot: int
    target: DeviceMemory
    future: Any

    def outcome(self) -> int:
        """Return how many bytes came; no more will be written, even where this raises."""
        return int(self.future.get())

    def settle(self) -> None:
        """Wait until no more will be written, whatever came."""
        with suppress(*_READ_FAULTS):
            self.outcome()


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
