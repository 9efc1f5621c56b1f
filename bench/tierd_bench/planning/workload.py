"""What a trace comes to on tiers of the sizes given: hits, sizes needed, first tokens, lifetime."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tierd.core.layouts import LayoutSpec
from tierd.core.units import format_bytes
from tierd_bench.planning.demand import (
    Hits,
    blocks_for,
    infinite_hit_rate,
    reuse_of,
    simulate,
    steps,
)
from tierd_bench.planning.endurance import DAY_S, Endurance, Lifetime, lifetime
from tierd_bench.planning.errors import PlanError
from tierd_bench.planning.machine import Machine
from tierd_bench.planning.report import Fit, Needed, Workload
from tierd_bench.planning.ttft import ttfts
from tierd_bench.simulate.references import References
from tierd_bench.simulate.report import TraceFacts
from tierd_bench.simulate.reuse import Reuse

USUAL_SHARES: Final = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Of what an infinite cache hits: for which sizes are told if no hit rate is asked for."""

_CURVE_POINTS: Final = 60


@dataclass(frozen=True, slots=True)
class Demand:
    """A trace as numbers, and what it is.

    Its requests come in so many `seconds`; `is_timed` says whether all were recorded with their
    times.
    """

    references: References
    facts: TraceFacts
    seconds: float
    is_timed: bool

    def at_pace(self, requests_per_day: float | None) -> "Demand":
        """Return the same requests at another pace, or at their own."""
        if requests_per_day is None:
            return self
        return replace(self, seconds=self.facts.requests / requests_per_day * DAY_S)


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers to try, the policy that keeps them, and what is to be found out about them."""

    host: Fit
    disk: Fit
    policy: str
    hit_rates: tuple[float, ...]
    endurance: Endurance


def work_out(
    demand: Demand,
    tiers: Tiers,
    machine: Machine,
    layout: LayoutSpec,
    tell: Callable[[int, int], None],
) -> Workload:
    """Return what a trace comes to; `tell` hears how many references of how many are done.

    Raises:
        PlanError: not one block fits into the tiers.
    """
    if not max(tiers.host.blocks, tiers.disk.blocks):
        raise PlanError(
            f"no block of {format_bytes(layout.block_bytes)} fits into the tiers",
            "use larger tiers, or fewer --block-tokens",
        )
    references = demand.references
    count, total = len(references.blocks), steps(references)
    reuse = reuse_of(references, lambda done: tell(done, total))
    hits = simulate(
        references,
        tiers.host.blocks,
        tiers.disk.blocks,
        tiers.policy,
        lambda done: tell(count + done, total),
    )
    times = ttfts(references, hits, machine, layout, demand.seconds)
    infinite = infinite_hit_rate(references)
    usual = tuple(share * infinite for share in USUAL_SHARES) if infinite else ()
    return Workload(
        trace=demand.facts,
        policy=tiers.policy,
        seconds=demand.seconds,
        infinite_hit_rate=infinite,
        hit_rate=int(hits.together.sum()) / count,
        optimum=hits.optimum / count,
        hit_rates={"host": int(hits.host.sum()) / count, "disk": hits.disk_reads / count},
        needed=tuple(_needed(rate, reuse, tiers.host, layout) for rate in tiers.hit_rates or usual),
        curve=tuple(_curve(reuse, layout)),
        ttft=tuple(times),
        lifetime=_lifetime(demand, tiers, hits, times[-1].disk_blocks, layout),
    )


def _needed(hit_rate: float, reuse: Reuse, host: Fit, layout: LayoutSpec) -> Needed:
    blocks = blocks_for(reuse, hit_rate)
    if blocks is None:
        return Needed(hit_rate, None, None, None)
    size = blocks * layout.block_bytes
    return Needed(hit_rate, blocks, size, 0 if blocks <= host.blocks else size)


def _curve(reuse: Reuse, layout: LayoutSpec) -> list[tuple[int, float]]:
    """Return chain LRU's hit rate at sizes from a thousandth of the trace to all of it."""
    most = len(reuse.counts) - 1
    sizes = np.geomspace(max(1, most / 1000), most, _CURVE_POINTS).tolist()
    blocks = sorted({round(size) for size in sizes})
    whole = max(1, reuse.references)
    return [(size * layout.block_bytes, reuse.lru_hits(size) / whole) for size in blocks]


def _lifetime(
    demand: Demand, tiers: Tiers, hits: Hits, read: int, layout: LayoutSpec
) -> Lifetime | None:
    if not tiers.disk.blocks or demand.seconds <= 0:
        return None
    missed = len(demand.references.blocks) - int(hits.together.sum())
    return lifetime(
        written=missed * layout.block_bytes,
        read=read * layout.block_bytes,
        seconds=demand.seconds,
        disk_bytes=tiers.disk.bytes,
        endurance=tiers.endurance,
    )
