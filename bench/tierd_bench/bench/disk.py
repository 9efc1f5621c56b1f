"""Rows of the disk: chains that are nowhere else, and blocks until they are durable."""

import time
from collections.abc import Callable
from itertools import cycle
from typing import Final

from tierd_bench.bench.disk_limits import Direction, DiskLimit, disk_limit
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import NotMeasured, Stage
from tierd_bench.bench.timing import take_turns
from tierd_proto.v1 import tierd_pb2 as pb

GB: Final = 1_000_000_000
_LOOK_S: Final = 0.005
_DURABLE_WITHIN_S: Final = 60.0
_WAIT_S: Final = 10.0
_LIMIT_CHAINS: Final = 2
"""The file that the limit is measured on is as long as so many chains."""


def disk_read(stage: Stage) -> Figures:
    """Return GB/s of fetching chains that are on the disk only, each block verified.

    There are more chains than the host tier can hold, and they are fetched in a circle: each
    has been evicted from it when its turn comes.
    """
    sizes = stage.sizes
    chains = stage.held(sizes.disk_chains, sizes.disk_chain)
    _await_durable(stage)
    target = stage.warm(sizes.disk_chain)
    turns = cycle(chains)
    ways: set[str] = set()

    def read() -> float:
        chain = next(turns)
        cold = stage.namespace.match(chain).by_tier.get("disk", 0)
        if cold < len(chain):
            raise NotMeasured(f"of {len(chain)} blocks {cold} are on the disk only")
        target[:] = 0
        start = time.perf_counter()
        fetched = stage.fetch(chain, target)
        took = time.perf_counter() - start
        stage.check(chain, target)
        ways.update(fetched.routes)
        return target.nbytes / GB / took

    with disk_limit(stage.directory, stage.scene.block_bytes, _LIMIT_CHAINS * target.nbytes) as bar:
        limit = _rate(bar, "read")
        values, limits = take_turns(sizes.disk_runs, stage.tell, read, limit)
    note = f"{len(target)} blocks a fetch, by {', '.join(sorted(ways))}"
    return Figures("GB/s", values, limits, bar.what, note)


def disk_write(stage: Stage) -> Figures:
    """Return GB/s at which sealed blocks become durable, in the background.

    The disk tier was filled before, so that segments are overwritten, as they are in use.
    """
    blocks = stage.sizes.disk_chain
    source = stage.warm(blocks)
    for _ in range(stage.scene.disk_bytes // source.nbytes + 1):
        stage.hold(stage.fresh(blocks), source)
    _await_durable(stage)

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

    with disk_limit(stage.directory, stage.scene.block_bytes, _LIMIT_CHAINS * source.nbytes) as bar:
        limit = _rate(bar, "write")
        values, limits = take_turns(stage.sizes.disk_runs, stage.tell, write, limit)
    note = f"{blocks} blocks, from the seal until the index has the last"
    return Figures("GB/s", values, limits, bar.what, note)


def _rate(limit: DiskLimit, direction: Direction) -> Callable[[], float]:
    return lambda: limit.bytes_per_s(direction) / GB


def _await_durable(stage: Stage) -> None:
    """Return when every published block has been written."""
    published = sum(namespace.blocks_published for namespace in stage.client.status().namespaces)
    _await_written(stage, published * stage.scene.block_bytes)


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
