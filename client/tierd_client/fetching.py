"""One fetch, from the reply to the last byte: ready blocks first, then those that land."""

import time
from typing import Final

from tierd_client.buffers import Buffers, runs
from tierd_client.connection import Connection
from tierd_client.loader import Delivery, Leased, Loader
from tierd_client.placement import PlacedRun, placed_runs
from tierd_client.results import Fetched
from tierd_proto.v1 import tierd_pb2 as pb

_STEP_BYTES: Final = 1 << 30
"""Bytes between two looks at the deadline."""


def deliver(
    connection: Connection,
    loader: Loader,
    reply: pb.FetchReply,
    leased: Leased,
    buffers: Buffers,
) -> Delivery:
    """Load every block of `reply` into `buffers`, until the deadline.

    Blocks in mapped memory are copied at once, while the daemon reads others from disk into
    theirs; blocks without a slot are read from the medium meanwhile; those that land are copied
    as they do.
    """
    delivery = Delivery()
    placed = placed_runs(reply)
    pending = [run for run in placed if run.pending]
    for run in placed:
        if run.pending:
            continue
        if connection.mapped[run.tier]:
            _copy(loader, run, leased, buffers, delivery, loader.route(run.tier))
        else:
            _read(loader, run, leased, buffers, delivery)
        if delivery.cut:
            return delivery
    if pending:
        _follow(connection, loader, pending, leased, buffers, delivery)
    return delivery


def summary(
    connection: Connection, reply: pb.FetchReply, delivery: Delivery, seconds: float
) -> Fetched:
    """Return what a delivery amounts to."""
    blocks = min(delivery.prefix(), reply.blocks)
    by_tier: dict[str, int] = {}
    for run in placed_runs(reply):
        tier = connection.tiers[connection.entry + 1 if run.pending else run.tier]
        count = max(0, min(run.count, blocks - run.first))
        if count:
            by_tier[tier] = by_tier.get(tier, 0) + count
    return Fetched(blocks, by_tier, delivery.routes, seconds, delivery.cut)


def _copy(
    loader: Loader,
    run: PlacedRun,
    leased: Leased,
    buffers: Buffers,
    delivery: Delivery,
    route: str,
) -> None:
    step = max(1, _STEP_BYTES // buffers.part_bytes)
    for first in range(run.first, run.first + run.count, step):
        if leased.is_late():
            delivery.cut = "deadline"
            return
        piece = run.part(first, min(step, run.first + run.count - first))
        start = time.perf_counter()
        count = loader.load_ready(piece, leased, buffers)
        seconds = time.perf_counter() - start
        delivery.add(first, count, route, count * buffers.part_bytes, seconds)
        if count < piece.count:
            delivery.cut = "deadline" if leased.is_late() else "lease expired"
            return


def _read(
    loader: Loader,
    run: PlacedRun,
    leased: Leased,
    buffers: Buffers,
    delivery: Delivery,
) -> None:
    start = time.perf_counter()
    loaded = loader.load_direct(run, leased, buffers)
    seconds = time.perf_counter() - start
    route = loader.route(run.tier)
    for first, count in runs(loaded):
        size = count * buffers.part_bytes
        delivery.add(first, count, route, size, seconds * count / len(loaded))
    if len(loaded) < run.count:
        delivery.cut = "deadline" if leased.is_late() else "read failed"


def _follow(
    connection: Connection,
    loader: Loader,
    pending: list[PlacedRun],
    leased: Leased,
    buffers: Buffers,
    delivery: Delivery,
) -> None:
    """Copy pending blocks as they land, until all have, one fails, or time is up."""
    landing = connection.landing(leased.lease)
    waiting = {index: run for run in pending for index in range(run.first, run.first + run.count)}
    started = time.perf_counter()
    while waiting:
        landed, failed, go_on = landing.take(leased.until_s)
        ready = sorted(index for index in landed if index in waiting)
        for first, count in _neighbours(ready, waiting):
            run = waiting[first].part(first, count)
            _copy(loader, run, leased, buffers, delivery, loader.staged_route())
            for index in range(first, first + count):
                del waiting[index]
        if delivery.cut:
            break
        if failed:
            delivery.cut = "read failed"
            # What lies before the first failure may still come.
            for index in [index for index in waiting if index >= min(failed)]:
                del waiting[index]
        if not go_on and waiting:
            delivery.cut = "daemon away" if not connection.alive else "deadline"
            break
    use = delivery.routes.get(loader.staged_route())
    if use is not None:
        # The route's time is from the request to the last block, reading included.
        use.seconds = time.perf_counter() - started


def _neighbours(ready: list[int], waiting: dict[int, PlacedRun]) -> list[tuple[int, int]]:
    """Return runs of consecutive blocks that also lie in one run of slots."""
    found: list[tuple[int, int]] = []
    for index in ready:
        if found:
            first, count = found[-1]
            if index == first + count and waiting[index] is waiting[first]:
                found[-1] = first, count + 1
                continue
        found.append((index, 1))
    return found
