"""Rows of blocks in host memory: fetching and publishing, beside a plain memcpy loop."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

from tierd_bench.bench.limits import Blocks, addresses, copy_loop
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import NotMeasured, Stage
from tierd_bench.bench.timing import NS_PER_S, cpu_ns, seconds, take_turns
from tierd_client import BlockKey

GB: Final = 1_000_000_000
_MS: Final = 1000
_SINGLES: Final = 32
_RESERVE_WAIT_S: Final = 10.0
_CPU_ROUNDS: Final = 4
_MEMCPY: Final = "memcpy loop over the same blocks"


@dataclass(frozen=True, slots=True)
class Fetching:
    """Held chains, where to fetch each, and a copy of each by plain memcpy."""

    chains: list[list[BlockKey]]
    targets: list[Blocks]
    copies: list[Callable[[], None]]

    @property
    def total_bytes(self) -> int:
        return sum(target.nbytes for target in self.targets)


@contextmanager
def fetching(stage: Stage, chains: int, blocks: int) -> Iterator[Fetching]:
    """Hold chains of so many blocks, with the memory that they are in leased for the copies."""
    held = stage.held(chains, blocks)
    target = stage.warm(chains * blocks)
    targets = [target[at : at + blocks] for at in range(0, len(target), blocks)]
    with ExitStack() as leases:
        copies = []
        for chain, into in zip(held, targets, strict=True):
            views = leases.enter_context(stage.namespace.fetch_views(chain))
            if len(views) < len(chain):
                raise NotMeasured(f"of {len(chain)} held blocks {len(views)} are in memory")
            copies.append(copy_loop(addresses(into), addresses(list(views)), into.shape[1]))
        yield Fetching(held, targets, copies)
        for chain, into in zip(held, targets, strict=True):
            into[:] = 0
            stage.fetch(chain, into)
            stage.check(chain, into)


def fetch_rate(stage: Stage, blocks: int, chains: int) -> Figures:
    """Return GB/s of fetching chains of so many blocks, one after another."""
    with fetching(stage, chains, blocks) as work:
        rounds = _rounds(stage, work.total_bytes)
        size = rounds * work.total_bytes

        def fetch() -> float:
            return size / GB / sum(seconds(call) for _ in range(rounds) for call in calls)

        def copy() -> float:
            return size / GB / sum(seconds(call) for _ in range(rounds) for call in work.copies)

        calls = _fetches(stage, work)
        values, limits = take_turns(stage.sizes.host_runs, stage.tell, fetch, copy)
    return Figures("GB/s", values, limits, _MEMCPY, _shape(stage, blocks, chains))


def fetch_one(stage: Stage) -> Figures:
    """Return the time of fetching a single block, beside a round trip and then its memcpy.

    The two take turns as they do in a fetch: a round trip after a pause costs more than one of
    many in a row.
    """
    chains = min(_SINGLES, stage.sizes.batch)
    with fetching(stage, chains, 1) as work:
        rounds = max(1, stage.sizes.calls // chains)
        pairs = [partial(_ping_and_copy, stage, copy) for copy in work.copies]

        def fetch() -> float:
            return _MS * _median_s(_fetches(stage, work), rounds)

        def limit() -> float:
            return _MS * _median_s(pairs, rounds)

        def copy() -> float:
            return _MS * _median_s(work.copies, rounds)

        values, limits, copies = take_turns(stage.sizes.host_runs, stage.tell, fetch, limit, copy)
    what = "round trip of an empty message, then memcpy of the block"
    return Figures("ms", values, limits, what, f"of the limit, memcpy is {median(copies):.3f}")


def fetch_cpu(stage: Stage) -> Figures:
    """Return the processor time of client and daemon that a GB costs."""
    with fetching(stage, 1, stage.sizes.batch) as work:
        rounds = _CPU_ROUNDS * _rounds(stage, work.total_bytes)
        size = rounds * work.total_bytes / GB
        calls = _fetches(stage, work)
        pids = (os.getpid(), stage.daemon_pid)

        def fetch() -> float:
            return _cpu_s(pids, calls, rounds) / size

        def copy() -> float:
            return _cpu_s(pids, work.copies, rounds) / size

        values, limits = take_turns(stage.sizes.host_runs, stage.tell, fetch, copy)
    return Figures("CPU s/GB", values, limits, _MEMCPY, "client and daemon together")


def publish_rate(stage: Stage) -> Figures:
    """Return GB/s of publishing fresh chains into a tier that is full.

    The tier was filled before, so that every page is there on both sides, and every publish
    has as much evicted.
    """
    blocks = stage.sizes.batch
    source = stage.warm(blocks)
    for _ in range(2 * stage.scene.host_bytes // source.nbytes + 1):
        stage.publish(stage.fresh(blocks), source)
    rounds = _rounds(stage, source.nbytes)
    size = rounds * source.nbytes / GB

    def publish() -> float:
        fresh = [stage.fresh(blocks) for _ in range(rounds)]
        return size / sum(seconds(partial(stage.publish, chain, source)) for chain in fresh)

    def copy() -> float:
        with stage.namespace.reserve(stage.fresh(blocks), wait_s=_RESERVE_WAIT_S) as slots:
            if len(slots.indices) < blocks:
                raise NotMeasured(f"of {blocks} slots {len(slots.indices)} were granted")
            loop = copy_loop(addresses(slots.views), addresses(source), stage.scene.block_bytes)
            return size / sum(seconds(loop) for _ in range(rounds))

    values, limits = take_turns(stage.sizes.host_runs, stage.tell, publish, copy)
    what = "memcpy loop into slots of the same memory"
    note = f"{blocks} blocks at a time, each evicting one"
    return Figures("GB/s", values, limits, what, note)


def _fetches(stage: Stage, work: Fetching) -> list[Callable[[], object]]:
    pairs = zip(work.chains, work.targets, strict=True)
    return [partial(stage.fetch, chain, into) for chain, into in pairs]


def _ping_and_copy(stage: Stage, copy: Callable[[], None]) -> None:
    stage.client.ping()
    copy()


def _median_s(calls: Sequence[Callable[[], object]], rounds: int) -> float:
    return median(seconds(call) for _ in range(rounds) for call in calls)


def _cpu_s(pids: Sequence[int], calls: Sequence[Callable[[], object]], rounds: int) -> float:
    before = sum(map(cpu_ns, pids))
    for _ in range(rounds):
        for call in calls:
            call()
    return (sum(map(cpu_ns, pids)) - before) / NS_PER_S


def _rounds(stage: Stage, size: int) -> int:
    return max(1, stage.sizes.run_bytes // size)


def _shape(stage: Stage, blocks: int, chains: int) -> str:
    together = f"{blocks} x {stage.scene.block_bytes >> 10} KiB a fetch"
    return together if chains == 1 else f"{together}, {chains} chains in turn"
