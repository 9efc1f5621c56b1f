"""A plan: from a model, a machine and perhaps a trace to all the figures of a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tierd.core.layouts import LayoutSpec
from tierd.core.units import format_bytes
from tierd_bench.planning.architecture import Architecture
from tierd_bench.planning.config import check_ranks
from tierd_bench.planning.demand import (
    LRU,
    Tiers,
    blocks_for,
    infinite_hit_rate,
    reuse_of,
    simulate,
    steps,
)
from tierd_bench.planning.endurance import DAY_S, Endurance, Lifetime, lifetime
from tierd_bench.planning.errors import PlanError
from tierd_bench.planning.loading import CONTEXT_TOKENS, break_even, lengths
from tierd_bench.planning.machine import Machine, Setting, Speeds, machine_of
from tierd_bench.planning.report import Kv, Needed, Report, TierFit, Workload
from tierd_bench.planning.ttft import ttfts
from tierd_bench.simulate.references import References
from tierd_bench.simulate.report import TraceFacts
from tierd_bench.simulate.reuse import Reuse

USUAL_SHARES: Final = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Of what an infinite cache hits: for which sizes are told if no hit rate is asked for."""

_CURVE_POINTS: Final = 60

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    `settings` is where the caller says which of its figures nobody gave. `hit_rates` is for
    which smallest tiers are wanted, `requests_per_day` takes the place of a trace's own rate.
    """

    architecture: Architecture
    dtype: str
    tensor_parallel: int
    block_tokens: int
    host_bytes: int
    disk_bytes: int
    speeds: Speeds
    endurance: Endurance
    policy: str = LRU
    hit_rates: tuple[float, ...] = ()
    requests_per_day: float | None = None
    settings: tuple[Setting, ...] = ()

    def layout(self) -> LayoutSpec:
        """Return how a block lies in a slot.

        Raises:
            PlanError: the KV heads do not go into the ranks.
            InvalidRequest: no layout can be so.
        """
        check_ranks(self.architecture, self.tensor_parallel)
        return self.architecture.layout(self.block_tokens, self.dtype, self.tensor_parallel)


@dataclass(frozen=True, slots=True)
class Demand:
    """A trace as numbers, and what it is."""

    references: References
    facts: TraceFacts
    timing: str
    """`given` if requests were recorded with their times."""


def make_plan(version: str, wish: Wish, demand: Demand | None, tell: Tell) -> Report:
    """Return the figures of a plan; `tell` hears how many references of how many are done.

    Raises:
        PlanError: what is asked for cannot be had; says what to change.
    """
    layout = wish.layout()
    machine, speeds = machine_of(wish.speeds, wish.architecture, wish.tensor_parallel)
    context = wish.architecture.context_tokens
    settings = [*wish.settings, *speeds]
    if not context:
        origin = "the model does not say"
        settings.append(Setting("longest context", f"{CONTEXT_TOKENS:,} tokens", origin))
    workload = None
    if demand is not None:
        workload = _workload(wish, demand, layout, machine, tell)
        settings += _workload_settings(wish, demand, workload)
    return Report(
        version=version,
        kv=_kv(wish, layout),
        settings=tuple(settings),
        lengths=tuple(lengths(machine, layout, context)),
        break_evens=tuple(
            break_even(machine, link, layout, context) for link in (machine.host, machine.disk)
        ),
        workload=workload,
        notes=tuple(_notes(wish, layout)),
    )


def _kv(wish: Wish, layout: LayoutSpec) -> Kv:
    model, ranks = wish.architecture, wish.tensor_parallel
    return Kv(
        model=model.name,
        dtype=wish.dtype,
        tensor_parallel=ranks,
        token_bytes=model.token_bytes(wish.dtype, ranks),
        rank_token_bytes=model.rank_token_bytes(wish.dtype, ranks),
        windowed_bytes=model.windowed_bytes(wish.dtype, ranks),
        state_bytes=model.state_bytes,
        replicas=max(1, ranks // model.kv_heads) if model.kv_heads else 1,
        block_tokens=layout.block_tokens,
        block_bytes=layout.block_bytes,
    )


def _notes(wish: Wish, layout: LayoutSpec) -> list[str]:
    kv = _kv(wish, layout)
    notes = list(wish.architecture.notes)
    if kv.replicas > 1:
        notes.append(
            f"each KV head is on {kv.replicas} ranks, and tierd keeps the part of each: "
            f"kept once, the same KV would take 1/{kv.replicas} of the space"
        )
    waste = layout.block_bytes - kv.token_bytes * kv.block_tokens - kv.state_bytes
    if waste > layout.block_bytes // 20:
        notes.append(
            f"{100 * waste / layout.block_bytes:.0f} % of a block is padding to whole pages: "
            "use more --block-tokens"
        )
    if kv.state_bytes > kv.token_bytes * kv.block_tokens:
        notes.append(
            f"the states of recurrent layers are {100 * kv.state_bytes / layout.block_bytes:.0f} % "
            "of a block: use more --block-tokens"
        )
    return notes


def _workload(
    wish: Wish, demand: Demand, layout: LayoutSpec, machine: Machine, tell: Tell
) -> Workload:
    references = demand.references
    count = len(references.blocks)
    total = steps(references)
    tiers = Tiers(wish.host_bytes // layout.block_bytes, wish.disk_bytes // layout.block_bytes)
    if not tiers.together:
        raise PlanError(
            f"no block of {format_bytes(layout.block_bytes)} fits into the tiers",
            "use larger tiers, or fewer --block-tokens",
        )
    reuse = reuse_of(references, lambda done: tell(done, total))
    hits = simulate(references, tiers, wish.policy, lambda done: tell(count + done, total))
    seconds = _seconds(wish, demand)
    infinite = infinite_hit_rate(references)
    host_rate = int(hits.host.sum()) / count
    hit_rate = int(hits.together.sum()) / count
    sizes = (
        ("host", wish.host_bytes, tiers.host, host_rate),
        (
            "disk",
            wish.disk_bytes,
            tiers.disk,
            hit_rate - host_rate,
        ),
    )
    return Workload(
        trace=demand.facts,
        policy=wish.policy,
        seconds=seconds,
        infinite_hit_rate=infinite,
        hit_rate=hit_rate,
        optimum=hits.optimum / count,
        tiers=tuple(
            TierFit(name, size, blocks, blocks * layout.block_tokens, rate)
            for name, size, blocks, rate in sizes
        ),
        needed=tuple(
            _needed(rate, reuse, tiers, layout)
            for rate in wish.hit_rates or [share * infinite for share in USUAL_SHARES]
        ),
        curve=tuple(_curve(reuse, layout, tiers)),
        ttft=tuple(ttfts(references, hits, machine, layout)),
        lifetime=_lifetime(wish, hits.disk_writes * layout.block_bytes, seconds),
    )


def _needed(hit_rate: float, reuse: Reuse, tiers: Tiers, layout: LayoutSpec) -> Needed:
    blocks = blocks_for(reuse, hit_rate)
    if blocks is None:
        return Needed(hit_rate, None, None, None)
    size = blocks * layout.block_bytes
    return Needed(hit_rate, blocks, size, 0 if blocks <= tiers.host else size)


def _curve(reuse: Reuse, layout: LayoutSpec, tiers: Tiers) -> list[tuple[int, float]]:
    """Return chain LRU's hit rate at sizes from a thousandth of the trace to beyond all of it."""
    most = max(2, len(reuse.counts))
    sizes: Sequence[float] = np.geomspace(max(1, most / 1000), most, _CURVE_POINTS).tolist()
    blocks = sorted({round(size) for size in sizes} | {min(most, size) for size in _given(tiers)})
    whole = max(1, reuse.references)
    return [(size * layout.block_bytes, reuse.lru_hits(size) / whole) for size in blocks]


def _given(tiers: Tiers) -> set[int]:
    return {blocks for blocks in (tiers.host, tiers.disk) if blocks}


def _seconds(wish: Wish, demand: Demand) -> float:
    """Return how long the requests of the trace take to come."""
    if wish.requests_per_day is not None:
        return demand.facts.requests / wish.requests_per_day * DAY_S
    return float(demand.references.times_s[-1])


def _lifetime(wish: Wish, written: int, seconds: float) -> Lifetime | None:
    if not wish.disk_bytes or seconds <= 0:
        return None
    return lifetime(written, seconds, wish.disk_bytes, wish.endurance)


def _workload_settings(wish: Wish, demand: Demand, workload: Workload) -> list[Setting]:
    if wish.requests_per_day is not None:
        rate = Setting("requests a day", f"{wish.requests_per_day:,.0f}")
    elif workload.seconds > 0:
        a_day = demand.facts.requests * DAY_S / workload.seconds
        rate = Setting("requests a day", f"{a_day:,.0f}", f"the trace's own pace, {demand.timing}")
    else:
        rate = Setting("requests a day", "unknown", "one request has no pace: --requests-per-day")
    settings = [
        rate,
        Setting("order of requests", demand.facts.order, demand.timing),
        Setting("sizes for a hit rate", LRU, "the policy known at every size at once"),
        Setting("tiers together", "the larger of the two", "the disk also has what host has"),
        Setting("cache at the start", "empty", "so first uses miss"),
        Setting(
            "requests under way", "one at a time", "what they wait for one another is left out"
        ),
    ]
    return settings + (wish.endurance.settings() if wish.disk_bytes else [])
