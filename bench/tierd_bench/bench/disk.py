"""Rows of the disk: chains that are nowhere else, and blocks until they are durable."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from statistics import median
from typing import Final

from tierd_bench.bench.disk_limits import DEPTHS, Direction, DiskLimit, disk_limit
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import NotMeasured, Stage
from tierd_bench.bench.timing import take_turns
from tierd_client import BlockKey, Fetched
from tierd_client.splitting import Route
from tierd_proto.v1 import tierd_pb2 as pb

GB: Final = 1_000_000_000
_LOOK_S: Final = 0.005
_DURABLE_WITHIN_S: Final = 60.0
_WAIT_S: Final = 10.0
_LIMIT_CHAINS: Final = 2
"""The file that the limit is measured on is as long as so many chains."""

_WRITTEN_CHAINS: Final = 2
"""So many are written in one go: long enough for the first and the last batch to matter little."""


class ColdChains:
    """Chains that are on the disk only, fetched in a circle.

    There are more of them than the host tier can hold: each has been evicted from it when its
    turn comes. `seconds` is how long the last fetch took.
    """

    def __init__(self, stage: Stage, chains: int, blocks: int) -> None:
        self._stage = stage
        self._turns = cycle(stage.held(chains, blocks))
        self.target = stage.warm(blocks)
        self.chain_bytes = self.target.nbytes
        self.seconds = 0.0
        await_durable(stage)

    def fetch(self, route: Route = "auto") -> Fetched:
        """Fetch the next chain and verify it.

        Raises:
            NotMeasured: it was not on the disk only, or did not come as it should.
        """
        chain = self.take()
        start = time.perf_counter()
        fetched = self._stage.fetch(chain, self.target, route)
        self.seconds = time.perf_counter() - start
        self.verify(chain)
        return fetched

    def take(self) -> list[BlockKey]:
        """Return the next chain, to be fetched into `target`, which holds nothing.

        Raises:
            NotMeasured: it is not on the disk only.
        """
        chain = next(self._turns)
        found = self._stage.namespace.match(chain).by_tier
        if found != {"disk": len(chain)}:
            raise NotMeasured(f"{len(chain)} blocks were to be on the disk only, but are {found}")
        self.target[:] = 0
        return chain

    def verify(self, chain: Sequence[BlockKey]) -> None:
        """Return if `target` holds the bytes of `chain`.

        Raises:
            NotMeasured: it does not.
        """
        self._stage.check(chain, self.target)


def disk_read(stage: Stage) -> Figures:
    """Return GB/s of fetching chains that are on the disk only, each block verified."""
    sizes = stage.sizes
    cold = ColdChains(stage, sizes.disk_chains, sizes.disk_chain)
    ways: set[str] = set()

    def read() -> float:
        ways.update(cold.fetch().routes)
        return cold.chain_bytes / GB / cold.seconds

    file_bytes = _LIMIT_CHAINS * cold.chain_bytes
    with disk_limit(stage.directory, stage.scene.block_bytes, file_bytes) as bar:
        rates = _rates(bar, "read")
        values, *limits = take_turns(sizes.disk_runs, stage.tell, read, *rates)
    note = f"{sizes.disk_chain} blocks a fetch, by {', '.join(sorted(ways))}"
    return Figures("GB/s", values, max(limits, key=median), bar.what, note)


def disk_write(stage: Stage) -> Figures:
    """Return GB/s at which sealed blocks become durable, in the background.

    The disk tier was filled before, so that segments are overwritten, as they are in use.
    """
    blocks = _WRITTEN_CHAINS * stage.sizes.disk_chain
    source = stage.warm(blocks)
    for _ in range(stage.scene.disk_bytes // source.nbytes + 1):
        stage.hold(stage.fresh(blocks), source)
    await_durable(stage)

    def write() -> float:
        before = _written(stage.client.status())
        with stage.namespace.reserve(stage.fresh(blocks), wait_s=_WAIT_S) as slots:
            if len(slots.indices) < blocks:
                raise NotMeasured(f"of {blocks} slots {len(slots.indices)} were granted")
            slots.write(source)
            start = time.perf_counter()
            slots.seal()
        _await_written(stage, before + source.nbytes)
        return source.nbytes / GB / (time.perf_counter() - start)

    with disk_limit(stage.directory, stage.scene.block_bytes, source.nbytes) as bar:
        rates = _rates(bar, "write")
        values, *limits = take_turns(stage.sizes.disk_runs, stage.tell, write, *rates)
    note = f"{blocks} blocks, from the seal until the index has the last"
    return Figures("GB/s", values, max(limits, key=median), bar.what, note)


def _rates(limit: DiskLimit, direction: Direction) -> list[Callable[[], float]]:
    """Return what measures the limit, for each depth."""

    def rate(depth: int) -> float:
        return limit.bytes_per_s(direction, depth) / GB

    return [partial(rate, depth) for depth in DEPTHS]


def await_durable(stage: Stage) -> None:
    """Return when every block that this stage published has been written.

    Raises:
        NotMeasured: that takes too long.
    """
    published = sum(namespace.blocks_published for namespace in stage.client.status().namespaces)
    _await_written(stage, published * stage.scene.block_bytes)


def await_idle_writes(stage: Stage) -> None:
    """Return when nothing waits to be written any more.

    Raises:
        NotMeasured: that takes too long.
    """
    until = time.monotonic() + _DURABLE_WITHIN_S
    while queued := sum(tier.write_queue for tier in stage.client.status().tiers):
        if time.monotonic() > until:
            raise NotMeasured(f"{queued} blocks still wait to be written")
        time.sleep(_LOOK_S)


def written_bytes(stage: Stage) -> int:
    """Return how much was written to the disk since the daemon's start."""
    return _written(stage.client.status())


def _await_written(stage: Stage, size: int) -> None:
    """Return when so many bytes were written to the disk since the daemon's start, in all."""
    until = time.monotonic() + _DURABLE_WITHIN_S
    while _written(status := stage.client.status()) < size:
        if time.monotonic() > until:
            queued = sum(tier.write_queue for tier in status.tiers)
            raise NotMeasured(f"{queued} blocks still wait to be written")
        time.sleep(_LOOK_S)


def _written(status: pb.StatusReply) -> int:
    return sum(route.bytes for route in status.routes if route.target == "disk")
