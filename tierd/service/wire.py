"""Between protobuf messages and the store's events and replies. No decisions here."""

from collections.abc import Callable
from dataclasses import fields
from time import monotonic_ns
from typing import Any

from tierd.control import events as ev
from tierd.core.errors import InvalidRequest, TierdError
from tierd.core.keys import KEY_BYTES, BlockKey, split_keys
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.notes import BLOCK_CLASSES, EXPECTED_S_MAX, AgentState, BlockClass
from tierd.core.units import NS_PER_S
from tierd_proto.v1 import tierd_pb2 as pb


def layout_from_wire(message: pb.Layout) -> LayoutSpec:
    """Return the layout that a client sent.

    Raises:
        InvalidRequest: a field has a value that no layout can have.
    """
    groups = tuple(
        LayerGroup(
            layers=group.layers,
            kv_heads=group.kv_heads,
            head_size=group.head_size,
            planes=group.planes,
            kind=group.kind,  # type: ignore[arg-type]
            window_tokens=group.window_tokens,
            state_bytes=group.state_bytes,
        )
        for group in message.groups
    )
    return LayoutSpec(
        model=message.model,
        groups=groups,
        block_tokens=message.block_tokens,
        dtype=message.dtype,
        shards=message.shards or 1,
        revision=message.revision,
        weights_digest=message.weights_digest,
        order=message.order,
        tenant=message.tenant,
        salt=message.salt,
    )


def keys_from_wire(joined: bytes, keys_max: int) -> list[BlockKey]:
    """Return the keys that a client sent.

    Raises:
        InvalidRequest: a ragged tail, or more keys than a request may have.
    """
    if len(joined) % KEY_BYTES:
        raise InvalidRequest("keys", f"{len(joined)} bytes", f"send {KEY_BYTES} bytes a key")
    if len(joined) > keys_max * KEY_BYTES:
        found = f"{len(joined) // KEY_BYTES} keys"
        raise InvalidRequest(
            "keys", found, f"send at most {keys_max} (limits.keys_per_request_max)"
        )
    return split_keys(joined)


def fault_to_wire(error: TierdError) -> pb.Fault:
    """Return an error as a client will raise it again."""
    named = {f.name: getattr(error, f.name) for f in fields(error)}  # type: ignore[arg-type]
    texts = {k: "\n".join(v) if isinstance(v, tuple) else str(v) for k, v in named.items()}
    return pb.Fault(kind=type(error).__name__, message=str(error), fields=texts)


def landed_to_wire(action: ev.Landed) -> pb.ServerMessage:
    landed = pb.Landed(
        lease=action.lease,
        indices=action.indices,
        slots=action.slots,
        failed=action.failed,
        declined=action.declined,
    )
    return pb.ServerMessage(landed=landed)


def reply_to_wire(reply: ev.Reply, region_slots: list[int]) -> pb.ServerMessage:
    """Return a reply as it travels. `region_slots` are those of an opened namespace."""
    body = reply.body
    if isinstance(body, TierdError):
        return pb.ServerMessage(request=reply.request, fault=fault_to_wire(body))
    if isinstance(body, ev.NamespaceOpened):
        opened = pb.OpenReply(namespace=body.namespace, region_slots=region_slots)
        return pb.ServerMessage(request=reply.request, open=opened)
    return _REPLIES[type(body)](reply.request, body)


def _fetched(request: int, body: ev.Fetched) -> pb.ServerMessage:
    runs = body.runs
    message = pb.FetchReply(
        lease=body.lease,
        fence=body.fence,
        blocks=body.blocks,
        run_tier=[run.tier for run in runs],
        run_slot=[run.slot for run in runs],
        run_count=[run.count for run in runs],
        run_pending=[index for index, run in enumerate(runs) if run.pending],
        queued_bytes=body.queued_bytes,
        term_ns=body.term_ns,
    )
    if body.reserved is not None:
        message.reserved.CopyFrom(_reserved_message(body.reserved))
    return pb.ServerMessage(request=request, fetch=message)


def _reserved_message(body: ev.Reserved) -> pb.ReserveReply:
    return pb.ReserveReply(
        lease=body.lease,
        grant_index=[grant.index for grant in body.grants],
        grant_slot=[grant.slot for grant in body.grants],
        grant_count=[grant.count for grant in body.grants],
        declined=body.declined,
    )


def _matched(request: int, body: ev.Matched) -> pb.ServerMessage:
    match = pb.MatchReply(
        blocks=body.blocks,
        by_tier=body.by_tier,
        lease=body.lease,
        term_ns=body.term_ns,
        further=body.further,
    )
    return pb.ServerMessage(request=request, match=match)


def _reserved(request: int, body: ev.Reserved) -> pb.ServerMessage:
    return pb.ServerMessage(request=request, reserve=_reserved_message(body))


def _sealed(request: int, body: ev.Sealed) -> pb.ServerMessage:
    return pb.ServerMessage(request=request, seal=pb.SealReply(blocks=body.blocks))


def _renewed(request: int, body: ev.Renewed) -> pb.ServerMessage:
    term_ns = max(0, body.expires_ns - monotonic_ns())
    return pb.ServerMessage(request=request, renew=pb.RenewReply(term_ns=term_ns))


def _persisted(request: int, body: ev.Persisted) -> pb.ServerMessage:
    return pb.ServerMessage(request=request, persist=pb.PersistReply(blocks=body.blocks))


def _pinned(request: int, body: ev.Pinned) -> pb.ServerMessage:
    return pb.ServerMessage(request=request, pin=pb.PinReply(blocks=body.blocks))


_REPLIES: dict[type, Callable[[int, Any], pb.ServerMessage]] = {
    ev.Matched: _matched,
    ev.Fetched: _fetched,
    ev.Reserved: _reserved,
    ev.Sealed: _sealed,
    ev.Renewed: _renewed,
    ev.Persisted: _persisted,
    ev.Pinned: _pinned,
}


_CLASSES: dict[int, BlockClass] = {
    pb.BlockClass.Value(f"BLOCK_CLASS_{name.upper()}"): name for name in BLOCK_CLASSES
}


class EventReader:
    """Turns the messages of one session into events."""

    def __init__(self, session: int, keys_max: int) -> None:
        self._session = session
        self._keys_max = keys_max
        self._readers: dict[str, Callable[[int, Any, int], ev.Event]] = {
            "open": self._open,
            "match": self._match,
            "fetch": self._fetch,
            "stage": self._stage,
            "reserve": self._reserve,
            "seal": self._seal,
            "release": self._release,
            "renew": self._renew,
            "read_failed": self._read_failed,
            "persist": self._persist,
            "pin": self._pin,
            "prefetch": self._prefetch,
            "end_turn": self._end_turn,
            "end_session": self._end_session,
        }

    def read(self, message: pb.ClientMessage, now_ns: int) -> ev.Event:
        """Return the event of `message`.

        Raises:
            InvalidRequest: a field has a value that it cannot have.
        """
        kind = message.WhichOneof("body")
        if kind not in self._readers:
            raise InvalidRequest("body", repr(kind), "send a request of this protocol version")
        return self._readers[kind](message.request, getattr(message, kind), now_ns)

    def _keys(self, joined: bytes) -> list[BlockKey]:
        return keys_from_wire(joined, self._keys_max)

    def _open(self, request: int, body: pb.Open, now_ns: int) -> ev.Event:
        return ev.OpenNamespace(self._session, request, body.name, layout_from_wire(body.layout))

    def _match(self, request: int, body: pb.Match, now_ns: int) -> ev.Event:
        keys = self._keys(body.keys)
        return ev.Match(
            self._session,
            request,
            body.namespace,
            keys,
            body.hold,
            body.apart,
            body.count_missing,
        )

    def _fetch(self, request: int, body: pb.Fetch, now_ns: int) -> ev.Event:
        part = body.part if body.reserve else None
        until_ns = now_ns + body.wait_ns
        keys = self._keys(body.keys)
        if body.first > len(keys):
            raise InvalidRequest("first", str(body.first), f"at most the {len(keys)} keys given")
        return ev.Fetch(
            self._session,
            request,
            body.namespace,
            keys,
            until_ns,
            part,
            stage_blocks=body.stage_blocks,
            first=body.first,
            apart=body.apart,
        )

    def _stage(self, request: int, body: pb.Stage, now_ns: int) -> ev.Event:
        return ev.Stage(self._session, body.lease, body.first, body.blocks)

    def _reserve(self, request: int, body: pb.Reserve, now_ns: int) -> ev.Event:
        until_ns = now_ns + body.wait_ns
        keys = self._keys(body.keys)
        return ev.Reserve(
            self._session, request, body.namespace, keys, body.part, until_ns, body.apart
        )

    def _seal(self, request: int, body: pb.Seal, now_ns: int) -> ev.Event:
        return ev.Seal(self._session, request, body.lease, body.blocks)

    def _release(self, request: int, body: pb.Release, now_ns: int) -> ev.Event:
        return ev.Release(self._session, body.lease)

    def _renew(self, request: int, body: pb.Renew, now_ns: int) -> ev.Event:
        return ev.Renew(self._session, request, body.lease)

    def _read_failed(self, request: int, body: pb.ReadFailed, now_ns: int) -> ev.Event:
        return ev.ReadFailed(self._session, body.lease, body.index, body.unanswered)

    def _persist(self, request: int, body: pb.Persist, now_ns: int) -> ev.Event:
        keys = self._keys(body.keys)
        until_ns = now_ns + body.wait_ns
        return ev.Persist(self._session, request, body.namespace, keys, until_ns, body.apart)

    def _pin(self, request: int, body: pb.Pin, now_ns: int) -> ev.Event:
        keys = self._keys(body.keys)
        return ev.Pin(self._session, request, body.namespace, keys, body.ttl_ns)

    def _prefetch(self, request: int, body: pb.Prefetch, now_ns: int) -> ev.Event:
        return ev.Prefetch(body.namespace, self._keys(body.keys))

    def _end_turn(self, request: int, body: pb.EndTurn, now_ns: int) -> ev.Event:
        classes = [_CLASSES.get(number, "unknown") for number in body.classes]
        state: AgentState = "tool_call" if body.tool_call else "turn_ended"
        expected_ns = body.expected_ns
        if expected_ns > EXPECTED_S_MAX * NS_PER_S:
            remedy = f"send at most {EXPECTED_S_MAX * NS_PER_S}, or 0 if nobody knows"
            raise InvalidRequest("expected_ns", str(expected_ns), remedy)
        keys = self._keys(body.keys)
        return ev.EndTurn(self._session, body.namespace, keys, classes, state, expected_ns)

    def _end_session(self, request: int, body: pb.EndSession, now_ns: int) -> ev.Event:
        return ev.EndSession(body.namespace, self._keys(body.keys), body.shared)
