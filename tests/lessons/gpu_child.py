"""Many reads at once into GPU memory, in the child process that has a driver."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

import kvikio

from tests.gpu.child import PATIENCE_S, Segment, StalledDevice, _target
from tierd.core.keys import BlockKey
from tierd_client.gds import DirectReader, GdsSettings, SlotRun


class Counter:
    """How many reads have been asked of kvikio and not been waited for, now and at most."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = Lock()

    def add(self, step: int) -> None:
        with self._lock:
            self._now += step
            self.most = max(self.most, self._now)


@dataclass(frozen=True, slots=True)
class CountedFuture:
    """kvikio's future, which counts when it is waited for."""

    future: Any
    counter: Counter

    def get(self) -> int:
        got = int(self.future.get())
        self.counter.add(-1)
        return got


def read_from_many_threads(
    segment: Segment, keys: Sequence[BlockKey], settings: GdsSettings, threads: int
) -> tuple[str, int, list[list[str]], list[list[bytes]]]:
    """Read the same slots in many threads, all of them begun while the device stalls.

    Returns the label, the most reads in flight, and causes and parts of each thread.
    """
    counter = Counter()
    real = kvikio.CuFile

    class CountedFile:
        """kvikio's file, which counts the reads that it begins."""

        def __init__(self, path: str, flags: str) -> None:
            self._file = real(path, flags)

        def pread(self, *arguments: Any) -> CountedFuture:
            counter.add(1)
            return CountedFuture(self._file.pread(*arguments), counter)

    descriptor = os.open(segment.path, os.O_RDONLY | os.O_DIRECT)
    kvikio.CuFile = CountedFile
    try:
        reader = DirectReader(segment.layout, settings)

        def one(target: Any) -> list[str]:
            run = SlotRun(descriptor, segment.start, keys)
            return reader.read(run, target.memory, time.monotonic() + PATIENCE_S)

        with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
            targets = [stack.enter_context(_target(segment, keys)) for _ in range(threads)]
            with StalledDevice():
                running = [pool.submit(one, target) for target in targets]
                _until_it_stays(counter)
            causes = [each.result(PATIENCE_S) for each in running]
            parts = [target.outcome([]).parts for target in targets]
        reader.close()
    finally:
        kvikio.CuFile = real
        os.close(descriptor)
    return reader.label, counter.most, causes, parts


def _until_it_stays(counter: Counter) -> None:
    """Return when no more reads are begun than a moment before, and some are."""
    before, pause = 0, Event()
    while not before or before != counter.most:
        before = counter.most
        pause.wait(0.2)
