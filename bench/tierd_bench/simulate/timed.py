"""The timed simulation: the real store and policies on a virtual clock, with modelled tiers.

`simulate_timed` runs a trace twice, with the cache and with engines that compute every prompt
whole, and returns what users would see. A run has no randomness: the same arguments give the
same figures. The daemon is in `timed_daemon`, its media in `media`, users in `timed_users`, one
fetch in `timed_fetch`. Hit rates alone, and bounds, are had much faster without all this.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from tierd.control.policies import Policies
from tierd.core.layouts import LayoutSpec
from tierd.core.units import NS_PER_MS, NS_PER_S
from tierd_bench.replay.agenda import Pace
from tierd_bench.replay.driver import replay_layout
from tierd_bench.replay.embedded import EmbeddedSizes
from tierd_bench.replay.report import TIERS, Latency, latency
from tierd_bench.replay.user import Terms
from tierd_bench.simulate.media import DEVICE, DISK, HOST
from tierd_bench.simulate.prefill import NoPrefill, Prefill
from tierd_bench.simulate.timed_clock import Clock
from tierd_bench.simulate.timed_daemon import Machine, SimulatedDaemon, store_config
from tierd_bench.simulate.timed_users import CachedUser, ColdUser, Engine, Outcome, Replaying, User
from tierd_bench.traces import Trace
from tierd_policies import registry
from tierd_policies.promotion import PromoteOnHit

MACHINE: Final = Machine({"device": DEVICE, "host": HOST, "disk": DISK})

CDF_POINTS: Final = 100
_TELL_EVERY: Final = 64


@dataclass(frozen=True, slots=True)
class Setting:
    """How to simulate. Defaults are those of the daemon and of `replay`.

    Policies go by their names in the registry. `users` is how many requests are under way at once,
    `engines` how many prompts are computed at once; the others queue. `write_bytes_per_day` is
    the disk's budget, 0 is no limit.
    """

    sizes: EmbeddedSizes
    bytes_per_token: int
    policy: str = "chain_lru"
    admission: str = "always"
    prefetch: str = "on_hint"
    write_bytes_per_day: int = 0
    promote_after: int = 2
    users: int = 8
    engines: int = 1
    pace: Pace = field(default_factory=Pace)
    terms: Terms = field(default_factory=Terms)
    machine: Machine = MACHINE
    prefill: Prefill = field(default_factory=NoPrefill)


@dataclass(frozen=True, slots=True)
class TimedRun:
    """The figures of one simulation. All are simulated, none is measured.

    The names are those of a replay's report where they mean the same. `ttft_ms` is the time to
    the first token: from when a request was due, or from when its user took it up if requests
    have no times, through fetch and queue to the end of prefill; `ttft_cold_ms` is that of
    engines without a cache. `ttft_cdf` has the milliseconds by which each hundredth of the
    requests has its first token. `gpu_s` is what engines computed. `tokens_saved` were served,
    and not computed. `write_amplification` is bytes written to disk, headers and index included,
    over the payload in them.
    """

    policy: str
    admission: str
    tier_bytes: Mapping[str, int]
    requests: int
    tokens_asked: int
    tokens_hit: Mapping[str, int]
    tokens_missed: int
    hit_rate: float
    hit_rate_by_tier: Mapping[str, float]
    tokens_saved: int
    bytes_by_route: Mapping[str, int]
    moved_bytes: Mapping[str, int]
    disk_bytes_written: int
    write_amplification: float
    evictions_by_tier: Mapping[str, int]
    blocks_published: int
    blocks_unpublished: int
    fetches_cut: Mapping[str, int]
    fetch_ms: Latency
    ttft_ms: Latency
    ttft_cold_ms: Latency
    ttft_cdf: tuple[float, ...]
    ttft_cold_cdf: tuple[float, ...]
    gpu_s: float
    gpu_cold_s: float
    gpu_saved_s: float
    seconds: float
    seconds_cold: float
    simulated: str = "All figures are simulated."

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def simulate_timed(
    trace: Trace, setting: Setting, tell: Callable[[int], None] = lambda requests: None
) -> TimedRun:
    """Return what the trace would come to; `tell` hears how many requests have ended."""
    layout = replay_layout(trace, setting.bytes_per_token)
    clock = Clock()
    config = store_config(setting.sizes, layout, _policies(setting), setting.write_bytes_per_day)
    daemon = SimulatedDaemon(clock, config, setting.machine, layout)
    engine = Engine(clock, setting.engines, setting.prefill)
    user = CachedUser(daemon, engine, setting.terms, setting.machine.client_s)
    outcomes = _run(clock, trace, setting, user, tell)
    cold = _run_cold(trace, setting)
    return _figures(setting, layout, daemon, outcomes, cold)


def _policies(setting: Setting) -> Policies:
    return Policies(
        eviction=registry.eviction(setting.policy),
        admission=registry.admission(setting.admission),
        promotion=PromoteOnHit(setting.promote_after),
        prefetch=registry.prefetch(setting.prefetch),
    )


def _run(
    clock: Clock, trace: Trace, setting: Setting, user: User, tell: Callable[[int], None]
) -> list[Outcome]:
    replaying = Replaying(clock, trace, setting.users, setting.pace, user)
    outcomes, told = replaying.outcomes, 0
    while len(outcomes) < len(trace.requests):
        assert clock.step(), "requests wait for nothing"
        if len(outcomes) - told >= _TELL_EVERY:
            told = len(outcomes)
            tell(told)
    return outcomes


def _run_cold(trace: Trace, setting: Setting) -> list[Outcome]:
    clock = Clock()
    engine = Engine(clock, setting.engines, setting.prefill)
    user = ColdUser(clock, engine, trace.block_tokens)
    return _run(clock, trace, setting, user, lambda requests: None)


def _figures(
    setting: Setting,
    layout: LayoutSpec,
    daemon: SimulatedDaemon,
    outcomes: list[Outcome],
    cold: list[Outcome],
) -> TimedRun:
    store, traffic, tokens = daemon.store, daemon.traffic, layout.block_tokens
    asked = sum(outcome.asked for outcome in outcomes)
    hits = _summed(outcome.hits for outcome in outcomes)
    payload = traffic.payload_bytes["disk"]
    first = [outcome.first_token_ns for outcome in outcomes]
    first_cold = [outcome.first_token_ns for outcome in cold]
    gpu_s, gpu_cold_s = _computed_s(outcomes), _computed_s(cold)
    evicted = store.room.evicted
    return TimedRun(
        policy=setting.policy,
        admission=setting.admission,
        tier_bytes={tier.name: tier.bytes_max for tier in store.config.tiers},
        requests=len(outcomes),
        tokens_asked=asked * tokens,
        tokens_hit={tier: hits[tier] * tokens for tier in TIERS},
        tokens_missed=(asked - hits.total()) * tokens,
        hit_rate=hits.total() / max(1, asked),
        hit_rate_by_tier={tier: hits[tier] / max(1, asked) for tier in TIERS},
        tokens_saved=hits.total() * tokens,
        bytes_by_route=dict(_summed(outcome.route_bytes for outcome in outcomes)),
        moved_bytes={" to ".join(ends): size for ends, size in traffic.moved.items()},
        disk_bytes_written=traffic.medium_bytes["disk"],
        write_amplification=traffic.medium_bytes["disk"] / payload if payload else 0.0,
        evictions_by_tier={name: evicted[tier] for tier, name in enumerate(daemon.names)},
        blocks_published=sum(outcome.published for outcome in outcomes),
        blocks_unpublished=sum(outcome.unpublished for outcome in outcomes),
        fetches_cut=dict(Counter(outcome.cut for outcome in outcomes if outcome.cut)),
        fetch_ms=latency([outcome.fetch_ns for outcome in outcomes if outcome.fetch_ns]),
        ttft_ms=latency(first),
        ttft_cold_ms=latency(first_cold),
        ttft_cdf=_cdf_ms(first),
        ttft_cold_cdf=_cdf_ms(first_cold),
        gpu_s=gpu_s,
        gpu_cold_s=gpu_cold_s,
        gpu_saved_s=gpu_cold_s - gpu_s,
        seconds=_end_s(outcomes),
        seconds_cold=_end_s(cold),
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _computed_s(outcomes: Iterable[Outcome]) -> float:
    return sum(outcome.compute_s for outcome in outcomes)


def _end_s(outcomes: Iterable[Outcome]) -> float:
    return max((outcome.end_ns for outcome in outcomes), default=0) / NS_PER_S


def _cdf_ms(times_ns: list[int]) -> tuple[float, ...]:
    if not times_ns:
        return ()
    marks = np.percentile(times_ns, np.linspace(0, 100, CDF_POINTS + 1)) / NS_PER_MS
    return tuple(round(float(mark), 4) for mark in marks)
