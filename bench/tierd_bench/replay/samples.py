"""The daemon's own counters during a replay: occupancy over time, and what happened in all.

Counters of a daemon begin anew when it restarts, so totals are summed run by run; what a run
counted after its last sample is lost with it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tierd.core.errors import TierdError
from tierd_proto.v1 import tierd_pb2

POINTS_MAX: Final = 512
"""Samples kept; beyond it every second one goes, and the pauses double."""

FIRST_PAUSE_NS: Final = 50_000_000


class StatusSource(Protocol):
    """Whoever knows how the daemon is; the client does."""

    def status(self) -> tierd_pb2.StatusReply: ...


@dataclass(frozen=True, slots=True)
class TierSample:
    """One tier at one moment."""

    bytes_used: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Sample:
    """All tiers at one moment, counted from the start of the replay; empty while it is away."""

    at_ns: int
    tiers: Mapping[str, TierSample]


@dataclass(slots=True)
class DaemonTotals:
    """What the daemon counted between the first and the last sample."""

    evictions: Counter[str] = field(default_factory=Counter)
    bytes_written: Counter[str] = field(default_factory=Counter)
    route_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    route_busy_ns: Counter[tuple[str, str]] = field(default_factory=Counter)
    corrupt_blocks: int = 0


class Sampler:
    """Asks for the status from time to time and keeps what a report needs.

    Concurrency: for one thread.
    """

    def __init__(self, source: StatusSource, clock: Callable[[], int]) -> None:
        self._source: Final = source
        self._clock: Final = clock
        self._pause_ns = FIRST_PAUSE_NS
        self._due_ns = 0
        self._before: tierd_pb2.StatusReply | None = None
        self.samples: list[Sample] = []
        self.totals = DaemonTotals()
        self.gaps = 0
        self.last: tierd_pb2.StatusReply | None = None

    def sample_when_due(self) -> None:
        """Take a sample if the last one is long enough ago."""
        if self._clock() >= self._due_ns:
            self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        try:
            status = self._source.status()
        except TierdError:
            self._add(Sample(self._clock(), {}))
            if self._before is not None:
                self.gaps += 1
            self._before = None
            return
        tiers = {t.name: TierSample(t.bytes_used, t.bytes_max) for t in status.tiers}
        self._add(Sample(self._clock(), tiers))
        self._count(status)

    def _add(self, sample: Sample) -> None:
        self.samples.append(sample)
        if len(self.samples) > POINTS_MAX:
            del self.samples[1::2]
            self._pause_ns *= 2
        self._due_ns = sample.at_ns + self._pause_ns

    def _count(self, status: tierd_pb2.StatusReply) -> None:
        before = self._before
        restarted = self.last is not None and self.last.boot != status.boot
        if restarted and before is not None:
            # It was away for less than a pause.
            self.gaps += 1
        if restarted:
            before = tierd_pb2.StatusReply()
        elif before is None:
            before = self.last or status
        _add_differences(self.totals, before, status)
        self._before = self.last = status


def _add_differences(
    totals: DaemonTotals, before: tierd_pb2.StatusReply, after: tierd_pb2.StatusReply
) -> None:
    old_tiers = {tier.name: tier for tier in before.tiers}
    for tier in after.tiers:
        old = old_tiers.get(tier.name, tierd_pb2.TierStatus())
        totals.evictions[tier.name] += tier.evictions - old.evictions
        totals.bytes_written[tier.name] += tier.bytes_written - old.bytes_written
    old_routes = {(route.source, route.target): route for route in before.routes}
    for route in after.routes:
        ends = (route.source, route.target)
        known = old_routes.get(ends, tierd_pb2.RouteStatus())
        totals.route_bytes[ends] += route.bytes - known.bytes
        totals.route_busy_ns[ends] += route.busy_ns - known.busy_ns
    totals.corrupt_blocks += _corrupt(after) - _corrupt(before)


def _corrupt(status: tierd_pb2.StatusReply) -> int:
    return sum(namespace.corrupt_blocks for namespace in status.namespaces)
