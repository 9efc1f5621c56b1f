"""What the tests of the GPU route run in a process of their own.

The stand-in driver must be there before anything asks for a driver, and must not be what other
tests find. So these functions are called in a child that `start` has prepared, and what they
take and return is plain values.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Final, NoReturn

import torch

from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import SlotHeader, slot_stride_bytes
from tierd.core.units import PAGE_BYTES
from tierd_client import connect
from tierd_client.cuda_driver import LIBRARY, CudaDriver, CudaFault
from tierd_client.cuda_sums import page_sums
from tierd_client.cuda_verify import CopyBack, SumsOnDevice, TorchSums
from tierd_client.device_buffers import DeviceBuffers, DeviceCopies, DeviceMemory, is_on_device
from tierd_client.device_segments import DeviceSegmentReader
from tierd_client.devices import devices
from tierd_client.gds import DirectReader, GdsSettings, SlotRun
from tierd_client.memory import SegmentFile
from tierd_client.segments import SegmentReader
from tierd_client.splitting import Route

GUARD_BYTES: Final = 4096 + 13
"""On either side of the target, so that it is not aligned, and writes beyond it show."""

GUARD: Final = b"\xa5" * GUARD_BYTES
PATIENCE_S: Final = 60.0
STALLED_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file. Units: `start` is the offset of the first slot that is read."""

    path: str
    layout: LayoutSpec
    start: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a read came to. Bytes and copies into GPU memory are counted by the stand-in only."""

    causes: list[str]
    parts: list[bytes]
    are_guards_whole: bool
    copied_bytes: int = 0
    copies: int = 0


@dataclass(frozen=True, slots=True)
class Fetch:
    """What a fetch came to: the outcome's one cause says why the prefix was cut."""

    blocks: int
    mechanisms: dict[str, str]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Layered:
    """What a fetch layer by layer came to."""

    blocks: int
    layers: list[int]
    outcome: Outcome


class Owner:
    """Somebody who has pinned memory."""


class StalledDevice:
    """The stand-in's switch for a device that does not finish its copies."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)

    def __enter__(self) -> None:
        self._library.standin_stall()

    def __exit__(self, *_: object) -> None:
        self._library.standin_go_on()


def start(standin: Path | None, directory: Path) -> None:
    """Load the stand-in under the driver's name, if one is given, and work in `directory`.

    Where cuFile finds a driver and cannot work with it, it says so in a file there.
    """
    os.chdir(directory)
    if standin is not None:
        ctypes.CDLL(str(standin), mode=ctypes.RTLD_GLOBAL)


def read(
    segment: Segment, keys: Sequence[BlockKey], settings: GdsSettings, part: int = 0
) -> Outcome:
    """Read neighbouring slots."""
    with _reader(segment, settings) as (reader, descriptor), _target(segment, keys) as target:
        bytes_before, copies_before = _copied()
        run = SlotRun(descriptor, segment.start, keys, part)
        causes = reader.read(run, target.memory, time.monotonic() + PATIENCE_S)
        bytes_after, copies_after = _copied()
        counts = (bytes_after - bytes_before, copies_after - copies_before)
        return target.outcome(causes, counts)


def read_each(segment: Segment, keys: Sequence[BlockKey], order: Sequence[int]) -> Outcome:
    """Read neighbouring slots as a fetch does: part i goes to place `order[i]`.

    The GPU computes the sums, or the CPU does where the stand-in's device memory is its own. Bytes
    that came back are counted by the stand-in only. A file that does not answer is all causes.
    """
    descriptor = os.open(segment.path, os.O_RDONLY | os.O_DIRECT)
    driver = CudaDriver()
    copy_back = CopyBack(driver)
    sums = TorchSums() if torch.cuda.is_available() else _sums_in_place
    verify = SumsOnDevice(driver, sums, copy_back.verify_device)
    direct = DirectReader(segment.layout, GdsSettings(mode="compat"), verify.verify_device)
    beside = SegmentReader(segment.layout, 0)
    reader = DeviceSegmentReader(direct, beside)
    stride = slot_stride_bytes(segment.layout)
    file = SegmentFile(descriptor, stride, PAGE_BYTES, segment.start)
    with _target(segment, keys) as target:
        size = segment.layout.part_bytes
        targets = [target.memory.address + at * size for at in order]
        bytes_before = _counted("standin_bytes_to_host") or 0
        try:
            causes = reader.read(file, 0, keys, targets)
        except OSError as error:
            causes = [f"unanswered: {error}"] * len(keys)
        copied_back = (_counted("standin_bytes_to_host") or 0) - bytes_before
        direct.close()
        copy_back.close()
        os.close(descriptor)
        return target.outcome(causes, (copied_back, 0))


def read_past_the_end(segment: Segment, key: BlockKey) -> str:
    """Read a part to memory that ends before it does; return what the reader raises."""
    descriptor = os.open(segment.path, os.O_RDONLY | os.O_DIRECT)
    direct = DirectReader(segment.layout, GdsSettings(mode="compat"))
    run = SlotRun(descriptor, segment.start, [key])
    try:
        with _target(segment, [key]) as target:
            direct.read_each(run, [target.memory.address + GUARD_BYTES + 1])
    except OSError as error:
        return str(error)
    finally:
        direct.close()
        os.close(descriptor)
    return ""


def fetch(
    address: str, layout: LayoutSpec, keys: Sequence[BlockKey], route: Route, deadline_s: float
) -> Fetch:
    """Fetch a chain into GPU memory from the daemon at `address`."""
    size = layout.part_bytes
    with connect(address) as client, _room(len(keys) * size, size) as target:
        kv = client.open(layout)
        got = kv.fetch(keys, into=target.memory, route=route, deadline_s=deadline_s)
        outcome = target.outcome([got.cut])
    mechanisms = {name: use.mechanism for name, use in got.routes.items()}
    return Fetch(got.blocks, mechanisms, outcome)


def publish(address: str, layout: LayoutSpec, keys: Sequence[BlockKey], parts: list[bytes]) -> int:
    """Publish a chain from GPU memory; return how many blocks are new."""
    size = layout.part_bytes
    with connect(address) as client, _room(len(keys) * size, size) as target:
        held = b"".join(parts)
        start = ctypes.c_uint64(target.memory.address)
        with CudaDriver().on_device(0):
            _driver("cuMemcpyHtoD_v2", start, held, ctypes.c_size_t(len(held)))
        return client.open(layout).publish(keys, target.memory).blocks


def fetch_layers(address: str, layout: LayoutSpec, keys: Sequence[BlockKey]) -> Layered:
    """Fetch a chain into GPU memory layer by layer."""
    size = layout.part_bytes
    with connect(address) as client, _room(len(keys) * size, size) as target:
        kv = client.open(layout)
        with kv.fetch_layers(keys, target.memory, deadline_s=PATIENCE_S) as fetch:
            layers = list(fetch.layers())
        return Layered(fetch.blocks, layers, target.outcome([fetch.result().cut]))


def fetch_without_kvikio(
    address: str, layout: LayoutSpec, keys: Sequence[BlockKey], route: Route, deadline_s: float
) -> Fetch:
    """Fetch as a user does who has not installed it."""
    devices.cache_clear()
    with _without_kvikio():
        got = fetch(address, layout, keys, route, deadline_s)
    devices.cache_clear()
    return got


def refusal_of_remote(address: str, layout: LayoutSpec, keys: Sequence[BlockKey]) -> str:
    """Return what a caller is told whose daemon is not on this host."""
    try:
        fetch(address, layout, keys, "auto", PATIENCE_S)
    except InvalidRequest as error:
        return str(error)
    return ""


def copy_to_device(parts: Sequence[bytes], gap: int) -> Outcome:
    """Copy parts, which lie `gap` bytes apart in pinned pages, to contiguous GPU memory."""
    driver = CudaDriver()
    copies = DeviceCopies(driver)
    size = len(parts[0])
    stride = size + gap
    pages = mmap(-1, len(parts) * stride)
    for index, part in enumerate(parts):
        pages[index * stride : index * stride + size] = part
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    owner = Owner()
    gc.collect()  # What other tests have pinned is none of ours.
    before = _counted("standin_pinned_bytes") or 0
    for _ in range(2):
        copies.pin(owner, 0, address, len(pages))
    assert _counted("standin_pinned_bytes") in (before + len(pages), None)
    with _room(size * len(parts), size) as target:
        buffers = DeviceBuffers(target.memory, size, len(parts), copies, _no_reader)
        first = buffers.copies_from(1, address + stride, stride, len(parts) - 1)
        buffers.copy_all([*first, *buffers.copies_from(0, address, stride, 1)], None)
        outcome = target.outcome([])
    del owner
    assert _counted("standin_pinned_bytes") in (before, None)
    copies.pin(Owner(), 0, address, len(pages))  # As the next owner of the address does.
    return outcome


def copy_past_the_end(size: int) -> str:
    """Copy one byte more than there is room for; return what the driver says."""
    copies = DeviceCopies(CudaDriver())
    source = ctypes.create_string_buffer(2 * GUARD_BYTES + size + 1)
    with _room(size, size) as target:
        try:
            copies.copy_all([(target.start, ctypes.addressof(source), len(source))], 0)
        except CudaFault as error:
            return str(error)
    return ""


def buffers_one_a_block(size: int, count: int) -> list[int]:
    """Return where blocks lie in the given buffers, from the first buffer on."""
    copies = DeviceCopies(CudaDriver())
    with _room(size * count, size) as target:
        given = [target.memory.part(at * size, size) for at in range(count)]
        assert is_on_device(given)
        buffers = DeviceBuffers(given, size, count, copies, _no_reader)
        return [buffers.address(at) - target.memory.address for at in range(count)]


def refusal_of_buffers(given: object, size: int) -> str:
    """Return what a caller is told who gives something else than GPU memory for one block."""
    try:
        DeviceBuffers(given, size, 1, DeviceCopies(CudaDriver()), _no_reader)
    except InvalidRequest as error:
        return str(error)
    return ""


def read_too_late(segment: Segment, keys: Sequence[BlockKey], settings: GdsSettings) -> Outcome:
    """Read when the deadline has passed."""
    with _reader(segment, settings) as (reader, descriptor), _target(segment, keys) as target:
        run = SlotRun(descriptor, segment.start, keys)
        causes = reader.read(run, target.memory, time.monotonic())
        assert reader.settle(time.monotonic())
        return target.outcome(causes)


def read_stalled(segment: Segment, keys: Sequence[BlockKey], settings: GdsSettings) -> Outcome:
    """Read from a device that stalls past the deadline, and goes on later.

    The deadline leaves time to begin, on a busy machine, too.
    """
    with _reader(segment, settings) as (reader, descriptor), _target(segment, keys) as target:
        run = SlotRun(descriptor, segment.start, keys)
        with StalledDevice():
            causes = reader.read(run, target.memory, time.monotonic() + STALLED_S)
            assert not reader.settle(time.monotonic())
        assert reader.settle(time.monotonic() + PATIENCE_S)
        return target.outcome(causes)


def read_with_checksum(segment: Segment, keys: Sequence[BlockKey]) -> list[int]:
    """Read with a checksum of one's own, which refuses all; return the sizes it was asked about."""
    asked: list[int] = []

    def refuse(header: SlotHeader, shard: int, memory: DeviceMemory) -> str:
        asked.append(memory.size)
        return f"refused part {shard} of {header.key.hex()}"

    descriptor = os.open(segment.path, os.O_RDONLY)
    reader = DirectReader(segment.layout, GdsSettings(mode="compat"), refuse)
    with _target(segment, keys) as target:
        run = SlotRun(descriptor, segment.start, keys)
        causes = reader.read(run, target.memory, time.monotonic() + PATIENCE_S)
        reader.close()
    os.close(descriptor)
    assert causes == [f"refused part 0 of {key.hex()}" for key in keys]
    return asked


def open_files(segments: Sequence[Segment], key: BlockKey, settings: GdsSettings) -> list[int]:
    """Read the segments twice; return the descriptors kept after each round and later.

    Later is after the last segment was forgotten, and after the reader was closed. Those that
    were open before the first round do not count.
    """
    with _target(segments[0], [key]) as target:
        reader = DirectReader(segments[0].layout, settings)
        descriptors = [os.open(segment.path, os.O_RDONLY) for segment in segments]
        warm_up = SlotRun(descriptors[0], segments[0].start, [key])
        reader.read(warm_up, target.memory, time.monotonic() + PATIENCE_S)
        reader.forget(descriptors[0])
        counts = [_descriptors()]
        for _ in range(2):
            for descriptor, segment in zip(descriptors, segments, strict=True):
                run = SlotRun(descriptor, segment.start, [key])
                causes = reader.read(run, target.memory, time.monotonic() + PATIENCE_S)
                assert causes == [""], causes
            counts.append(_descriptors())
        reader.forget(descriptors[-1])
        counts.append(_descriptors())
        reader.close()
        counts.append(_descriptors())
        for descriptor in descriptors:
            os.close(descriptor)
    return [count - counts[0] for count in counts[1:]]


def read_of_a_closed_segment(segment: Segment, keys: Sequence[BlockKey]) -> list[str]:
    """Read by a descriptor that is not open; return what is wrong."""
    with _reader(segment, GdsSettings(mode="compat")) as (reader, descriptor):
        closed = os.dup(descriptor)
        os.close(closed)
        with _target(segment, keys) as target:
            run = SlotRun(closed, segment.start, keys)
            return reader.read(run, target.memory, time.monotonic() + PATIENCE_S)


def label(layout: LayoutSpec, settings: GdsSettings) -> str:
    """Return how the bytes would come."""
    reader = DirectReader(layout, settings)
    reader.close()
    return reader.label


def refusal_without_kvikio(layout: LayoutSpec) -> str:
    """Return what a user is told who has not installed it."""
    with _without_kvikio():
        try:
            DirectReader(layout, GdsSettings())
        except InvalidRequest as error:
            return str(error)
    return ""


def refusal_of_target(layout: LayoutSpec, target: object) -> str:
    """Return what a caller is told who gives something other than enough GPU memory."""
    reader = DirectReader(layout, GdsSettings(mode="compat"))
    try:
        reader.read(SlotRun(-1, 0, [layout.root]), target, time.monotonic() + PATIENCE_S)
    except InvalidRequest as error:
        return str(error)
    finally:
        reader.close()
    return ""


def refusal_of_driver(layout: LayoutSpec) -> str:
    """Return what a user is told whose driver does not start."""
    try:
        DirectReader(layout, GdsSettings())
    except InvalidRequest as error:
        return str(error)
    return ""


def fault_of_host_memory() -> str:
    """Return what the driver says of an address that is not a GPU's."""
    room = ctypes.create_string_buffer(16)
    try:
        CudaDriver().device_of(ctypes.addressof(room))
    except CudaFault as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class _Target:
    """GPU memory between guards."""

    start: int
    memory: DeviceMemory
    part_bytes: int

    def outcome(self, causes: list[str], counts: tuple[int, int] = (0, 0)) -> Outcome:
        """Return what is in the memory now."""
        size = self.memory.size
        room = ctypes.create_string_buffer(size + 2 * GUARD_BYTES)
        _driver("cuMemcpyDtoH_v2", room, ctypes.c_uint64(self.start), ctypes.c_size_t(len(room)))
        inside = room.raw[GUARD_BYTES : GUARD_BYTES + size]
        parts = [inside[at : at + self.part_bytes] for at in range(0, size, self.part_bytes)]
        guards = room.raw[:GUARD_BYTES] == GUARD == room.raw[-GUARD_BYTES:]
        return Outcome(causes, parts, guards, *counts)


@contextmanager
def _target(segment: Segment, keys: Sequence[BlockKey]) -> Iterator[_Target]:
    size = segment.layout.part_bytes
    with _room(len(keys) * size, size) as target:
        yield target


@contextmanager
def _room(size: int, part_bytes: int) -> Iterator[_Target]:
    room = GUARD + bytes(size) + GUARD
    with CudaDriver().on_device(0):
        start = ctypes.c_uint64()
        _driver("cuMemAlloc_v2", ctypes.byref(start), ctypes.c_size_t(len(room)))
        _driver("cuMemcpyHtoD_v2", start, room, ctypes.c_size_t(len(room)))
        memory = DeviceMemory(start.value + GUARD_BYTES, size)
        yield _Target(start.value, memory, part_bytes)
        _driver("cuMemFree_v2", start)


@contextmanager
def _reader(segment: Segment, settings: GdsSettings) -> Iterator[tuple[DirectReader, int]]:
    descriptor = os.open(segment.path, os.O_RDONLY | os.O_DIRECT)
    reader = DirectReader(segment.layout, settings)
    yield reader, descriptor
    reader.close()
    os.close(descriptor)


@contextmanager
def _without_kvikio() -> Iterator[None]:
    hidden = {name: module for name, module in sys.modules.items() if name.startswith("kvikio")}
    for name in (*hidden, "kvikio"):
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["kvikio"]
        sys.modules.update(hidden)


def _driver(name: str, *arguments: object) -> None:
    error = ctypes.CDLL(LIBRARY)[name](*arguments)
    assert error == 0, (name, error)


def _copied() -> tuple[int, int]:
    """Return bytes and copies into the stand-in's memory so far; nothing on a real driver."""
    return _counted("standin_bytes_to_device") or 0, _counted("standin_copies_to_device") or 0


def _counted(name: str) -> int | None:
    """Return one of the stand-in's counts; None on a real driver, which has none."""
    library = ctypes.CDLL(LIBRARY)
    if not hasattr(library, name):
        return None
    call = library[name]
    call.restype = ctypes.c_uint64
    return int(call())


def _no_reader(beside: SegmentReader) -> NoReturn:
    raise AssertionError(beside)


def _sums_in_place(memory: DeviceMemory, device: int) -> bytes:
    """Return the sums of the stand-in's memory, by the code that a GPU runs."""
    assert device == 0
    array = (ctypes.c_uint8 * memory.size).from_address(memory.address)
    return page_sums(torch.frombuffer(array, dtype=torch.uint8))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
