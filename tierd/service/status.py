"""What the daemon is and holds, as the reply that people and dashboards read.

Cheap enough for every second, whatever is held: it walks tiers, namespaces and leases, and no
blocks. Showing the reply is left to `metrics`, `http` and the command line.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from tierd.control.store import Store
from tierd.transfer.usage import RouteUse
from tierd_proto.v1 import tierd_pb2 as pb


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """What the store does not know about its daemon.

    `boot`: 16 random bytes of this run. `mediums`: what holds the bytes, by tier. `causes`: why
    a tier is offline, by its index; the only part that changes while the daemon runs.
    """

    version: str
    boot: bytes
    pid: int
    started_ns: int
    listens: tuple[str, ...]
    mediums: tuple[str, ...]
    causes: MutableMapping[int, str]


def build_status(
    store: Store,
    facts: DaemonFacts,
    bytes_written: Sequence[int],
    routes: Mapping[tuple[int, int], RouteUse],
    now_ns: int,
) -> pb.StatusReply:
    """Return what there is to know at `now_ns`.

    `bytes_written` is by tier; `routes` by the indices of source and target tier. A block that
    several leases hold counts as leased several times.
    """
    leases = store.leases.leases.values()
    return pb.StatusReply(
        version=facts.version,
        boot=facts.boot,
        pid=facts.pid,
        uptime_ns=now_ns - facts.started_ns,
        tiers=_tiers(store, facts, bytes_written),
        namespaces=_namespaces(store),
        routes=_routes(store, routes),
        sessions=len(store.sessions),
        leases=len(leases),
        leased_blocks=sum(len(lease.blocks) for lease in leases),
        waiting=len(store.waiting),
        listens=facts.listens,
    )


def hit_rate(reply: pb.StatusReply) -> float | None:
    """Return the share of the tokens asked that were held; None if nothing was asked."""
    asked = sum(namespace.tokens_asked for namespace in reply.namespaces)
    missed = sum(namespace.tokens_missed for namespace in reply.namespaces)
    return (asked - missed) / asked if asked else None


def status_json(reply: pb.StatusReply) -> dict[str, Any]:
    """Return the reply for programs: its fields by name, and `hit_rate`, null if nothing was asked.

    Unlike in protobuf's own JSON, counts are numbers, bytes are hexadecimal, and no field is
    left out.
    """
    return {**_fields(reply), "hit_rate": hit_rate(reply)}


def _tiers(
    store: Store, facts: DaemonFacts, bytes_written: Sequence[int]
) -> Iterator[pb.TierStatus]:
    for tier, config in enumerate(store.config.tiers):
        spaces = [row[tier] for row in store.room.spaces]
        yield pb.TierStatus(
            name=config.name,
            medium=facts.mediums[tier],
            online=store.moves.online[tier],
            cause=facts.causes.get(tier, ""),
            bytes_max=config.bytes_max,
            bytes_lent=store.room.budgets[tier].bytes_lent,
            bytes_used=sum(space.used * space.slot_bytes for space in spaces),
            blocks=store.catalog.copies[tier],
            evictions=store.room.evicted[tier],
            write_queue=len(store.room.queued[tier]),
            bytes_written=bytes_written[tier],
        )


def _namespaces(store: Store) -> Iterator[pb.NamespaceStatus]:
    for namespace, counts in zip(store.catalog.namespaces, store.counts, strict=True):
        yield pb.NamespaceStatus(
            name=namespace.name,
            model=namespace.layout.model,
            block_bytes=namespace.layout.block_bytes,
            block_tokens=namespace.layout.block_tokens,
            blocks=store.catalog.held[namespace.number],
            requests=counts.requests,
            tokens_asked=counts.tokens_asked,
            tokens_hit=[counts.tokens_hit[tier] for tier in range(len(store.config.tiers))],
            tokens_missed=counts.tokens_missed,
            blocks_published=counts.blocks_sealed,
            blocks_declined=counts.blocks_declined,
            corrupt_blocks=counts.corrupt_blocks,
        )


def _routes(store: Store, routes: Mapping[tuple[int, int], RouteUse]) -> Iterator[pb.RouteStatus]:
    names = [tier.name for tier in store.config.tiers]
    for (source, target), use in sorted(routes.items()):
        yield pb.RouteStatus(
            source=names[source],
            target=names[target],
            blocks=use.blocks,
            bytes=use.bytes,
            busy_ns=use.busy_ns,
            failed=use.failed,
        )


def _fields(message: Message) -> dict[str, Any]:
    return {field.name: _plain(getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return _fields(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str | int | float):
        return value
    return [_plain(item) for item in value]
