"""The row of demand reads while the disk is being written to, flat out."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from math import ceil
from multiprocessing.synchronize import Event
from statistics import median
from typing import Final

import numpy as np

from tierd_bench.bench.disk import GB, ColdChains, await_idle_writes, written_bytes
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import BLOCK_TOKENS, NAME, NotMeasured, Scene, Stage
from tierd_bench.bench.timing import take_turns
from tierd_client import connect

_MS: Final = 1000
_NUMBERS_FROM: Final = 1 << 24
"""First of the chains that are published meanwhile: far from those that are fetched."""

_PUBLISH_BLOCKS: Final = 32
_WAIT_S: Final = 1.0
_BUSY_WITHIN_S: Final = 20.0
_LOOK_S: Final = 0.005


def demand_p99(stage: Stage) -> Figures:
    """Return the p99 of small fetches off the disk while fresh blocks are written to it.

    Beside it is the p99 of the same fetches while nothing is; the two take turns.
    """
    sizes = stage.sizes
    cold = ColdChains(stage, sizes.demand_chains, sizes.demand_chain)
    rates: list[float] = []
    blocks: Counter[str] = Counter()
    busy_p50: list[float] = []
    idle_p50: list[float] = []

    def idle() -> float:
        times = _times_ms(cold, sizes.demand_fetches, Counter())
        idle_p50.append(median(times))
        return _p99(times)

    with _publisher(stage) as publishes:

        def busy() -> float:
            publishes.set()
            _await_busy_writes(stage)
            start, before = time.perf_counter(), written_bytes(stage)
            times = _times_ms(cold, sizes.demand_fetches, blocks)
            took = time.perf_counter() - start
            rates.append((written_bytes(stage) - before) / GB / took)
            publishes.clear()
            await_idle_writes(stage)
            busy_p50.append(median(times))
            return _p99(times)

        idle_p99, busy_p99 = take_turns(sizes.disk_runs, stage.tell, idle, busy)
    ways = [f"{count / blocks.total():.0%} {name}" for name, count in sorted(blocks.items())]
    note = (
        f"{sizes.demand_fetches} fetches of {sizes.demand_chain} blocks a run; meanwhile "
        f"write-back of {median(rates):.2f} GB/s, and the blocks came {', '.join(ways)}"
    )
    counted = slice(-sizes.disk_runs, None)
    others = {"p50": tuple(busy_p50[counted]), "p50, no writes": tuple(idle_p50[counted])}
    what = "the same p99 while nothing is written"
    return Figures("ms", busy_p99, idle_p99, what, note, others)


def _times_ms(cold: ColdChains, fetches: int, blocks: "Counter[str]") -> list[float]:
    """Return how long each fetch takes; add to `blocks` what came by each route."""
    times: list[float] = []
    for _ in range(fetches):
        fetched = cold.fetch()
        times.append(_MS * cold.seconds)
        blocks.update({name: use.blocks for name, use in fetched.routes.items()})
    return times


def _p99(times: Sequence[float]) -> float:
    return sorted(times)[ceil(0.99 * len(times)) - 1]


@contextmanager
def _publisher(stage: Stage) -> Iterator[Event]:
    """Run a process that publishes as fast as it can whenever the event is set."""
    spawn = multiprocessing.get_context("spawn")
    event = spawn.Event()
    process = spawn.Process(
        target=publish_on, args=(stage.address, stage.scene, event), daemon=True
    )
    process.start()
    try:
        yield event
    finally:
        process.kill()
        process.join()


def publish_on(address: str, scene: Scene, on: Event) -> None:
    """Publish fresh chains, one after another, while `on` is set. Never returns."""
    with connect(address) as client:
        namespace = client.open(scene.layout(), NAME)
        source = np.ones((_PUBLISH_BLOCKS, scene.block_bytes), np.uint8)
        for number in count(_NUMBERS_FROM):
            on.wait()
            chain = namespace.keys(np.full(_PUBLISH_BLOCKS * BLOCK_TOKENS, number, np.uint32))
            namespace.publish(chain, source, wait_s=_WAIT_S)


def _await_busy_writes(stage: Stage) -> None:
    """Return when the write-back has begun."""
    before = written_bytes(stage)
    until = time.monotonic() + _BUSY_WITHIN_S
    while written_bytes(stage) == before:
        if time.monotonic() > until:
            raise NotMeasured("nothing was published")
        time.sleep(_LOOK_S)
