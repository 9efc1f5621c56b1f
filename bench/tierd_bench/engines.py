"""Which way of asking a disk for blocks is fastest, and what each costs in processor time.

    python -m tierd_bench.engines /var/tmp --append bench/results/engines.jsonl

Every engine moves the same blocks, in one order at random, between one file and shared memory as
the host tier has it. They take turns with fio, so that a busy machine slows all of them. Engines
that are not installed are left out: `liburing` is no dependency of tierd, and kvikio needs a
driver library (`--libcuda`; the tests' stand-in will do, since only host memory is used).
"""

import ctypes
import json
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import track

from tierd.core.units import KiB, MiB
from tierd_bench.bench.disk_limits import DEPTHS, Direction, disk_limit
from tierd_bench.replay.machine import current_commit, this_machine

_FILE_BYTES: Final = 512 * MiB
_REQUEST_BYTES: Final = 4 * MiB
"""Neighbouring blocks that a thread asks for at once."""

_RING_ENTRIES: Final = 64
_LIMIT: Final = "fio, io_uring, the better depth"
_GB: Final = 1e9

Offsets = Sequence[int]


@dataclass(frozen=True, slots=True)
class Target:
    """The file, and memory of its size. Units: `block_bytes` divides both."""

    descriptor: int
    path: Path
    memory: memoryview
    block_bytes: int

    def block(self, offset: int) -> memoryview:
        """Return the memory of the block at an offset of the file."""
        return self.memory[offset : offset + self.block_bytes]


Engine = Callable[[Direction, Offsets], None]


@dataclass(slots=True)
class Figure:
    """What one engine did in every run. Units: GB/s, and processor seconds a GB, not fio's."""

    engine: str
    direction: Direction
    block_bytes: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@contextmanager
def threads(target: Target, count: int, request_bytes: int) -> Iterator[Engine]:
    """Blocking calls in a pool of threads, `request_bytes` of neighbouring blocks in each."""
    step = max(1, request_bytes // target.block_bytes) * target.block_bytes

    def move(direction: Direction, start: int) -> None:
        offsets = range(start, start + step, target.block_bytes)
        call = os.preadv if direction == "read" else os.pwritev
        done = call(target.descriptor, [target.block(offset) for offset in offsets], start)
        assert done == step, (done, step)

    with ThreadPoolExecutor(count) as pool:

        def run(direction: Direction, offsets: Offsets) -> None:
            starts = [offset for offset in offsets if offset % step == 0]
            list(pool.map(lambda start: move(direction, start), starts))

        yield run


@contextmanager
def io_uring(target: Target, depth: int) -> Iterator[Engine]:
    """A ring of requests by liburing's binding, one block in each, from this thread."""
    uring = import_module("liburing")
    ring, entry = uring.Ring(), uring.Cqe()
    uring.io_uring_queue_init(_RING_ENTRIES, ring)
    vectors = {
        offset: uring.Iovec([target.block(offset)])
        for offset in range(0, _FILE_BYTES, target.block_bytes)
    }

    def reap() -> int:
        completions, count = uring.io_uring_cqe_iter_init(ring), 0
        while uring.io_uring_cqe_iter_next(completions, entry):
            assert entry[0].res == target.block_bytes, entry[0].res
            count += 1
        uring.io_uring_cq_advance(ring, count)
        return count

    def run(direction: Direction, offsets: Offsets) -> None:
        read, write = uring.io_uring_prep_readv, uring.io_uring_prep_writev
        prepare = read if direction == "read" else write
        rest, in_flight = list(offsets), 0
        while rest or in_flight:
            while rest and in_flight < depth:
                offset = rest.pop()
                request = uring.io_uring_get_sqe(ring)
                prepare(request, target.descriptor, vectors[offset], offset)
                in_flight += 1
            uring.io_uring_submit_and_wait(ring, 1)
            in_flight -= reap()

    try:
        yield run
    finally:
        uring.io_uring_queue_exit(ring)


@contextmanager
def kvikio_host(target: Target, count: int) -> Iterator[Engine]:
    """kvikio into host memory: its own threads, whole blocks as tasks, past the page cache."""
    kvikio: Any = import_module("kvikio")
    defaults: Any = import_module("kvikio.defaults")
    settings = {"num_threads": count, "compat_mode": kvikio.CompatMode.ON}
    direct = {"auto_direct_io_read": True, "auto_direct_io_write": True}
    defaults.set({**settings, **direct, "task_size": max(target.block_bytes, MiB)})
    with kvikio.CuFile(str(target.path), "r+") as file:

        def run(direction: Direction, offsets: Offsets) -> None:
            call = file.pread if direction == "read" else file.pwrite
            size = target.block_bytes
            moved = [call(target.block(offset), size, offset) for offset in offsets]
            assert all(each.get() == size for each in moved)

        yield run


def compare(
    directory: Path, block_bytes: int, runs: int, libcuda: Path | None, console: Console
) -> list[Figure]:
    """Return the figures of all engines and of fio, taken in turns."""
    with ExitStack() as stack:
        limit = stack.enter_context(disk_limit(directory, block_bytes, _FILE_BYTES))
        descriptor = os.open(limit.path, os.O_RDWR | os.O_DIRECT)
        stack.callback(os.close, descriptor)
        memory = memoryview(mmap.mmap(-1, _FILE_BYTES))
        memory[:] = bytes(_FILE_BYTES)
        engines = _engines(stack, Target(descriptor, limit.path, memory, block_bytes), libcuda)
        names = [_LIMIT, *engines]
        both: tuple[Direction, ...] = ("read", "write")
        figures = {(name, way): Figure(name, way, block_bytes) for name in names for way in both}
        offsets = list(range(0, _FILE_BYTES, block_bytes))
        for _ in track(range(runs), f"{block_bytes // KiB} KiB", console=console):
            random.shuffle(offsets)
            for way in both:
                best = max(limit.bytes_per_s(way, depth) for depth in DEPTHS)
                figures[_LIMIT, way].rates.append(best / _GB)
                for name, engine in engines.items():
                    _measure(figures[name, way], engine, offsets)
        return list(figures.values())


def _engines(stack: ExitStack, target: Target, libcuda: Path | None) -> dict[str, Engine]:
    made = {
        f"{count} threads, {max(size, target.block_bytes) // KiB} KiB": stack.enter_context(
            threads(target, count, size)
        )
        for count, size in ((4, 0), (2, _REQUEST_BYTES), (4, _REQUEST_BYTES), (8, _REQUEST_BYTES))
    }
    if find_spec("liburing"):
        for depth in DEPTHS:
            name = f"liburing, depth {depth}"
            made[name] = stack.enter_context(io_uring(target, depth))
    if libcuda is not None and find_spec("kvikio"):
        for count in (4, 8):
            name = f"kvikio host mode, {count} threads"
            made[name] = stack.enter_context(kvikio_host(target, count))
    return made


def _measure(figure: Figure, engine: Engine, offsets: Offsets) -> None:
    cpu, start = time.process_time(), time.perf_counter()
    engine(figure.direction, offsets)
    figure.rates.append(_FILE_BYTES / _GB / (time.perf_counter() - start))
    figure.cpu.append((time.process_time() - cpu) / (_FILE_BYTES / _GB))


def main(
    directory: Annotated[Path, typer.Argument(help="On the disk to measure.")],
    runs: Annotated[int, typer.Option(help="Of every engine, in turns.", min=1)] = 7,
    libcuda: Annotated[Path | None, typer.Option(help="A CUDA driver, for kvikio.")] = None,
    append: Annotated[Path | None, typer.Option(help="Add a line an engine to it.")] = None,
) -> None:
    """Compare ways of reading and writing blocks of 256 KiB and of 2 MiB."""
    console = Console()
    if libcuda is not None:
        ctypes.CDLL(str(libcuda), mode=ctypes.RTLD_GLOBAL)
    named = {"figure": "engines", "commit": current_commit(), "machine": asdict(this_machine())}
    for block_bytes in (256 * KiB, 2 * MiB):
        for figure in compare(directory, block_bytes, runs, libcuda, console):
            rate = round(median(figure.rates), 2)
            cpu = round(median(figure.cpu), 3) if figure.cpu else None
            row = {"GB_per_s": rate, "cpu_s_per_GB": cpu, **named, **asdict(figure)}
            console.print(f"{figure.direction} {figure.engine}: {rate} GB/s, {cpu} s/GB")
            if append is not None:
                with append.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    typer.run(main)
