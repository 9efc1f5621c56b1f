"""Takes turns between tierd and the machine's limit, so that both see the same noise."""

import time
from collections.abc import Callable
from typing import Final

NS_PER_S: Final = 1_000_000_000


def take_turns(
    runs: int, tell: Callable[[], None], *measures: Callable[[], float]
) -> list[tuple[float, ...]]:
    """Return what each of `measures` gave in every run, after one that does not count.

    In a run each is called once, in order. `tell` is called after each run.
    """
    for measure in measures:
        measure()
    found: list[tuple[float, ...]] = []
    for _ in range(runs):
        found.append(tuple(measure() for measure in measures))
        tell()
    return list(zip(*found, strict=True))


def seconds(call: Callable[[], object]) -> float:
    """Return how long `call` takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cpu_ns(pid: int) -> int:
    """Return the processor time that all threads of a process have used.

    Source: the number of a process's clock is that of glibc's `clock_getcpuclockid`.
    """
    return time.clock_gettime_ns(~pid << 3 | 2)
