"""What the daemon is and holds, as the reply that people and dashboards read.

Cheap enough for every second, whatever is held: it walks tiers, namespaces and leases, and no
blocks. Showing the reply is left to `metrics`, `http` and the command line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from tierd.control.moves import Moves
from tierd.control.store import Store
from tierd.transfer.usage import RouteUse, Wear
from tierd_proto.v1 import tierd_pb2 as pb


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """What the store does not know about its daemon.

    `boot`: 16 random bytes of this run. `mediums`: what holds the bytes, by tier.
    """

    version: str
    boot: bytes
    pid: int
    started_ns: int
    listens: tuple[str, ...]
    mediums: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TierUse:
    """What became of one tier's medium: why it is not online, its faults, what was written."""

    cause: str = ""
    faults: int = 0
    wear: Wear = field(default_factory=Wear)


def build_status(
    store: Store,
    facts: DaemonFacts,
    uses: Sequence[TierUse],
    routes: Mapping[tuple[int, int], RouteUse],
    now_ns: int,
) -> pb.StatusReply:
    """Return what there is to know at `now_ns`.

    `uses` is by tier; `routes` by the indices of source and target tier. A block that several
    leases hold counts as leased several times.
    """
    leases = store.leases.leases.values()
    return pb.StatusReply(
        version=facts.version,
        boot=facts.boot,
        pid=facts.pid,
        uptime_ns=now_ns - facts.started_ns,
        tiers=_tiers(store, facts, uses, now_ns),
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
    store: Store, facts: DaemonFacts, uses: Sequence[TierUse], now_ns: int
) -> Iterator[pb.TierStatus]:
    for tier, config in enumerate(store.config.tiers):
        spaces = [row[tier] for row in store.room.spaces]
        use, moves = uses[tier], store.moves
        yield pb.TierStatus(
            name=config.name,
            medium=facts.mediums[tier],
            online=moves.online[tier],
            state=_state(moves, tier),
            cause=use.cause,
            faults=use.faults,
            bytes_max=config.bytes_max,
            bytes_lent=store.room.budgets[tier].bytes_lent,
            bytes_used=sum(space.used * space.slot_bytes for space in spaces),
            blocks=store.catalog.copies[tier],
            evictions=store.room.evicted[tier],
            write_queue=len(store.room.queued[tier]),
            bytes_written=use.wear.medium_bytes,
            payload_bytes_written=use.wear.payload_bytes,
            write_bytes_per_day=config.write_bytes_per_day,
            write_budget_bytes=moves.budgets[tier].left_bytes(now_ns),
            blocks_unbudgeted=moves.unbudgeted[tier],
            blocks_given_up=moves.given_up[tier],
        )


def _state(moves: Moves, tier: int) -> str:
    if moves.writable[tier]:
        return "online"
    return "read-only" if moves.online[tier] else "offline"


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
