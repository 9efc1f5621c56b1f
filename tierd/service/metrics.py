"""The status as Prometheus metrics. What they are counted from is left to `status`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tierd.core.units import NS_PER_S
from tierd_proto.v1 import tierd_pb2 as pb


class StatusCollector(Collector):
    """Turns the status into metrics whenever it is scraped.

    Law 8 holds in each scrape: tokens asked = the sum of `tierd_tokens_total` over its outcomes.

    Concurrency: collects on the thread that asks, which must be one that may call `status`.
    """

    def __init__(self, status: Callable[[], pb.StatusReply]) -> None:
        self._status = status
        self._hits_shown: dict[str, list[int]] = {}

    def collect(self) -> Iterable[Metric]:
        """Return every metric, as of now."""
        reply = self._status()
        tiers = [((tier.name,), tier) for tier in reply.tiers]
        namespaces = [((namespace.name,), namespace) for namespace in reply.namespaces]
        routes = [((route.source, route.target), route) for route in reply.routes]
        return [
            *_daemon(reply),
            *_shown(_TIER, ("tier",), tiers),
            *_shown(_NAMESPACE, ("namespace",), namespaces),
            self._tokens(reply),
            *_shown(_ROUTE, ("source", "target"), routes),
        ]

    def _tokens(self, reply: pb.StatusReply) -> Metric:
        """Return what came of the tokens asked.

        A block that fails while it is read turns from a hit into a miss, but a counter that
        falls reads as a restart. So a tier's hits stand still until they have caught up, and
        what is shown as missed is what remains: no counter falls, and the sum is exact.
        """
        tokens = CounterMetricFamily(
            "tierd_tokens",
            "Tokens asked, by the tier that served them, or missed. The sum over outcomes is "
            "tierd_tokens_asked_total. A block found corrupt counts as missed after all.",
            labels=("namespace", "outcome"),
        )
        tiers = [tier.name for tier in reply.tiers]
        for namespace in reply.namespaces:
            before = self._hits_shown.get(namespace.name, [0] * len(tiers))
            shown = [max(pair) for pair in zip(before, namespace.tokens_hit, strict=True)]
            self._hits_shown[namespace.name] = shown
            for tier, hit in zip(tiers, shown, strict=True):
                tokens.add_metric((namespace.name, tier), hit)
            missed = namespace.tokens_asked - sum(shown)
            tokens.add_metric((namespace.name, "missed"), missed)
        return tokens


def _daemon(reply: pb.StatusReply) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "tierd",
        "Version of the daemon, and the random identity of its run.",
        value={"version": reply.version, "boot": reply.boot.hex()},
    )
    yield GaugeMetricFamily(
        "tierd_uptime_seconds", "Time since the daemon started.", reply.uptime_ns / NS_PER_S
    )
    yield GaugeMetricFamily("tierd_sessions", "Clients connected.", reply.sessions)
    yield GaugeMetricFamily("tierd_leases", "Live leases of all kinds.", reply.leases)
    yield GaugeMetricFamily(
        "tierd_leased_blocks",
        "Blocks held in place by leases; one under several leases counts for each.",
        reply.leased_blocks,
    )
    yield GaugeMetricFamily(
        "tierd_waiting_requests",
        "Requests that wait for another writer, or for room.",
        reply.waiting,
    )


T = TypeVar("T")
Rows = Sequence[tuple[tuple[str, ...], T]]
"""Label values, and what has them."""


@dataclass(frozen=True, slots=True)
class _Metric(Generic[T]):
    """A metric with one value for each `T`. Prometheus adds `_total` to a counter's name."""

    family: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    text: str
    value: Callable[[T], float]


def _shown(
    metrics: Iterable[_Metric[T]],
    labels: tuple[str, ...],
    rows: Sequence[tuple[tuple[str, ...], T]],
) -> Iterator[Metric]:
    for metric in metrics:
        family = metric.family(metric.name, metric.text, labels=labels)
        for values, row in rows:
            family.add_metric(values, metric.value(row))
        yield family


_TIER: tuple[_Metric[pb.TierStatus], ...] = (
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_online",
        "1 while the tier can be read, 0 when it does not answer.",
        lambda tier: int(tier.online),
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_writable",
        "1 while the tier can be written, 0 when it is read-only or offline.",
        lambda tier: int(tier.state == "online"),
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_faults",
        "How often the medium refused a read or a write, or did not answer it.",
        lambda tier: tier.faults,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_bytes_max",
        "The cap on the bytes of the tier.",
        lambda tier: tier.bytes_max,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_bytes_lent",
        "Bytes lent to namespaces.",
        lambda tier: tier.bytes_lent,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_bytes_used",
        "Bytes that hold blocks, or are reserved for them.",
        lambda tier: tier.bytes_used,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_blocks",
        "Copies of blocks in the tier.",
        lambda tier: tier.blocks,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_write_queue_blocks",
        "Blocks that wait to be written to the next colder tier.",
        lambda tier: tier.write_queue,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_evictions",
        "Copies evicted from the tier.",
        lambda tier: tier.evictions,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_written_bytes",
        "Bytes written to the medium of the tier: headers, padding and index with the blocks.",
        lambda tier: tier.bytes_written,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_payload_written_bytes",
        "Bytes of blocks written to the tier. tierd_tier_written_bytes_total over this is the "
        "write amplification.",
        lambda tier: tier.payload_bytes_written,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_write_budget_bytes_per_day",
        "What may be written to the tier in a day unless it must be; 0 is no limit.",
        lambda tier: tier.write_bytes_per_day,
    ),
    _Metric(
        GaugeMetricFamily,
        "tierd_tier_write_budget_left_bytes",
        "What may be written to the tier now; below 0 what was written beyond that.",
        lambda tier: tier.write_budget_bytes,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_blocks_unbudgeted",
        "Blocks not written to the tier because its write budget was spent.",
        lambda tier: tier.blocks_unbudgeted,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_blocks_given_up",
        "Blocks not written to the tier because that failed too often.",
        lambda tier: tier.blocks_given_up,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tier_scrubbed_bytes",
        "Bytes of the tier read in the background, only to see that they are right.",
        lambda tier: tier.bytes_scrubbed,
    ),
)

_NAMESPACE: tuple[_Metric[pb.NamespaceStatus], ...] = (
    _Metric(
        GaugeMetricFamily,
        "tierd_blocks",
        "Blocks held, in whatever tier.",
        lambda namespace: namespace.blocks,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_requests",
        "Fetches answered.",
        lambda namespace: namespace.requests,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_tokens_asked",
        "Tokens whose blocks were asked for.",
        lambda namespace: namespace.tokens_asked,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_blocks_published",
        "Blocks sealed, and visible since.",
        lambda namespace: namespace.blocks_published,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_blocks_declined",
        "Blocks for which a reservation found no slot.",
        lambda namespace: namespace.blocks_declined,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_corrupt_blocks",
        "Copies whose bytes were not what was written; each was dropped and never served.",
        lambda namespace: namespace.corrupt_blocks,
    ),
)

_ROUTE: tuple[_Metric[pb.RouteStatus], ...] = (
    _Metric(
        CounterMetricFamily,
        "tierd_route_blocks",
        "Blocks moved from one tier to another.",
        lambda route: route.blocks,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_route_bytes",
        "Bytes moved from one tier to another.",
        lambda route: route.bytes,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_route_busy_seconds",
        "Time during which at least one move of the route was under way. Bytes over this is the "
        "bandwidth of the route.",
        lambda route: route.busy_ns / NS_PER_S,
    ),
    _Metric(
        CounterMetricFamily,
        "tierd_route_failed_blocks",
        "Blocks whose move failed.",
        lambda route: route.failed,
    ),
)
