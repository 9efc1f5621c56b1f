"""A replay's figures, from what came of each request: what `--json` writes, and all else shows."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tierd.core.units import NS_PER_MS, NS_PER_S
from tierd_bench.replay.driver import Driven
from tierd_bench.replay.machine import Machine
from tierd_bench.replay.outcomes import AWAY, Outcome, RouteShare
from tierd_bench.replay.samples import Sampler
from tierd_bench.replay.user import PUBLISH
from tierd_bench.traces import Trace
from tierd_proto.v1 import tierd_pb2

TIERS: Final = ("device", "host", "disk")
"""Reported even where the daemon has no such tier, so that reports compare."""

EMULATED: Final = "emulated"
CORRUPT_PAGES_SHOWN: Final = 16
FAULTS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; all 0 where nothing was measured."""

    p50: float
    p90: float
    p99: float
    max: float
    count: int


@dataclass(frozen=True, slots=True)
class DaemonRoute:
    """What went between two tiers inside the daemon, in the background for the most part."""

    source: str
    target: str
    bytes: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one replay. The names are those of the JSON file.

    Tokens are whole blocks of prompts: `tokens_asked` is the sum of `tokens_hit` and
    `tokens_missed`. Rates are shares of 1. `seconds_by_route` adds up what every user spent, so
    `gb_per_s_by_route` is what one user saw, without round trips, and `fetch_gb_per_s` all of
    them together over the whole replay. `publish` is the route in. A fetch includes the wait for
    blocks that another user was writing. `publish_ms` is of requests that wrote something, and
    includes making the contents.
    `late_ms` is how long after its time a request began, where requests have times.
    `held_before` are blocks that earlier replays of this very trace had left in the daemon.
    """

    trace: str
    block_tokens: int
    bytes_per_token: int
    sessions: int
    unique_blocks: int
    requests: int
    tokens_asked: int
    tokens_hit: Mapping[str, int]
    tokens_missed: int
    hit_rate: float
    infinite_cache_hit_rate: float
    bytes_by_route: Mapping[str, int]
    seconds_by_route: Mapping[str, float]
    gb_per_s_by_route: Mapping[str, float]
    fetch_gb_per_s: float
    fetch_ms: Latency
    publish_ms: Latency
    corrupt_blocks: int
    corrupt_pages: tuple[str, ...]
    held_before: int
    blocks_published: int
    blocks_unpublished: int
    fetches_cut: Mapping[str, int]
    late_ms: Latency
    evictions: int
    evictions_by_tier: Mapping[str, int]
    disk_bytes_written: int
    daemon_routes: tuple[DaemonRoute, ...]
    daemon_corrupt_blocks: int
    daemon_gaps: int
    faults: Mapping[str, int]
    wall_s: float
    interrupted: bool
    notes: tuple[str, ...]
    config: Mapping[str, Any]
    machine: Machine
    version: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a report says about how a replay was made."""

    bytes_per_token: int
    config: Mapping[str, Any]
    machine: Machine
    version: str
    held_before: int


def make_report(trace: Trace, driven: Driven, sampler: Sampler, setting: Setting) -> Report:
    """Return the figures of a replay."""
    outcomes = driven.outcomes
    asked = sum(outcome.asked for outcome in outcomes)
    hits = _total(outcome.hits for outcome in outcomes)
    tiers = [*TIERS, *(tier for tier in hits if tier not in TIERS)]
    hit = sum(hits.values())
    routes = sum_routes(outcomes)
    wall_s = driven.wall_ns / NS_PER_S
    fetched = sum(share.bytes for name, share in routes.items() if name != PUBLISH)
    totals = sampler.totals
    return Report(
        trace=trace.name,
        block_tokens=trace.block_tokens,
        bytes_per_token=setting.bytes_per_token,
        sessions=len({request.session for request in trace.requests}),
        unique_blocks=trace.unique_blocks,
        requests=len(outcomes),
        tokens_asked=asked * trace.block_tokens,
        tokens_hit={tier: hits[tier] * trace.block_tokens for tier in tiers},
        tokens_missed=(asked - hit) * trace.block_tokens,
        hit_rate=hit / max(1, asked),
        infinite_cache_hit_rate=trace.infinite_hit_rate,
        bytes_by_route={name: share.bytes for name, share in routes.items()},
        seconds_by_route={name: share.busy_ns / NS_PER_S for name, share in routes.items()},
        gb_per_s_by_route={name: _gb_per_s(share) for name, share in routes.items()},
        fetch_gb_per_s=fetched / 1e9 / wall_s if wall_s else 0.0,
        fetch_ms=latency(fetch_times_ns(outcomes)),
        publish_ms=latency(publish_times_ns(outcomes)),
        corrupt_blocks=sum(outcome.corrupt_blocks for outcome in outcomes),
        corrupt_pages=_first(CORRUPT_PAGES_SHOWN, outcomes, lambda outcome: outcome.corrupt_pages),
        held_before=setting.held_before,
        blocks_published=sum(outcome.published for outcome in outcomes),
        blocks_unpublished=sum(outcome.unpublished for outcome in outcomes),
        fetches_cut=dict(Counter(outcome.cut for outcome in outcomes if outcome.cut)),
        late_ms=latency([o.late_ns for o in outcomes] if driven.pace.is_timed else []),
        evictions=totals.evictions.total(),
        evictions_by_tier=dict(totals.evictions),
        disk_bytes_written=totals.bytes_written["disk"],
        daemon_routes=tuple(
            DaemonRoute(*ends, size, totals.route_busy_ns[ends] / NS_PER_S)
            for ends, size in totals.route_bytes.items()
        ),
        daemon_corrupt_blocks=totals.corrupt_blocks,
        daemon_gaps=sampler.gaps,
        faults=_faults(outcomes),
        wall_s=wall_s,
        interrupted=driven.interrupted,
        notes=tuple(_notes(driven, sampler, setting)),
        config=setting.config,
        machine=setting.machine,
        version=setting.version,
    )


def latency(times_ns: Sequence[int]) -> Latency:
    """Return the percentiles of `times_ns`, in milliseconds."""
    if not times_ns:
        return Latency(0.0, 0.0, 0.0, 0.0, 0)
    marks = np.percentile(times_ns, (50, 90, 99, 100)) / NS_PER_MS
    p50, p90, p99, most = (round(float(mark), 4) for mark in marks)
    return Latency(p50, p90, p99, most, len(times_ns))


def fetch_times_ns(outcomes: Iterable[Outcome]) -> list[int]:
    """Return how long each fetch took that reached the daemon.

    Requests that are shorter than a block make none.
    """
    return [o.fetch_ns for o in outcomes if o.fetch_ns and o.cut != AWAY]


def publish_times_ns(outcomes: Iterable[Outcome]) -> list[int]:
    """Return how long each publish took, of the requests that had something to write."""
    return [outcome.publish_ns for outcome in outcomes if outcome.publish_ns]


def sum_routes(outcomes: Iterable[Outcome]) -> dict[str, RouteShare]:
    """Return what went over each route, in the order of bytes."""
    sums: dict[str, RouteShare] = {}
    for outcome in outcomes:
        for name, share in outcome.routes.items():
            sums[name] = sums.get(name, RouteShare(0, 0, 0)) + share
    return dict(sorted(sums.items(), key=lambda item: -item[1].bytes))


def emulated_tiers(status: tierd_pb2.StatusReply | None) -> list[str]:
    """Return the tiers whose medium is not what their name says."""
    tiers = status.tiers if status is not None else ()
    return [tier.name for tier in tiers if tier.medium == EMULATED]


def _notes(driven: Driven, sampler: Sampler, setting: Setting) -> Iterable[str]:
    """Yield what a reader has to know to take the figures for what they are."""
    yield (
        f"Blocks hold {setting.bytes_per_token} bytes a token, made from their keys: "
        "no model computes here, and times are those of moving bytes."
    )
    for tier in emulated_tiers(sampler.last):
        yield f"The {tier} tier is emulated in this machine's memory: no GPU is used."
    if setting.held_before:
        yield (
            f"{setting.held_before} blocks of this trace were in the daemon before the replay, "
            "so the hit rate may be above that of an infinite cache that starts empty."
        )
    if sampler.gaps:
        yield (
            f"Times that the daemon went away: {sampler.gaps}. Requests missed meanwhile, and what "
            "it counted after the last sample before is not in evictions and written bytes."
        )
    if driven.interrupted:
        yield "Interrupted: the figures are of the requests that had ended by then."


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _first(
    count: int, outcomes: Iterable[Outcome], of: Callable[[Outcome], Iterable[object]]
) -> tuple[str, ...]:
    found = (str(item) for outcome in outcomes for item in of(outcome))
    return tuple(text for text, _ in zip(found, range(count), strict=False))


def _faults(outcomes: Iterable[Outcome]) -> dict[str, int]:
    counts = Counter(fault for outcome in outcomes for fault in outcome.faults)
    shown = dict(counts.most_common(FAULTS_SHOWN))
    others = counts.total() - sum(shown.values())
    return shown | ({"others": others} if others else {})


def _gb_per_s(share: RouteShare) -> float:
    return share.bytes / share.busy_ns if share.busy_ns else 0.0
