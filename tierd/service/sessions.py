"""The gRPC face: sessions, the bytes of remote clients, and status.

A session is one stream. Its requests are handled one after another, its replies written in the
order in which they arise; what takes time (a fetch that waits) is answered later, and does not
hold up the requests behind it.
"""

import asyncio
import logging
import mmap
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from importlib.metadata import version
from time import monotonic_ns
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from tierd.control import events as ev
from tierd.control.leases import Lease
from tierd.core.errors import InvalidRequest, Overloaded, TierdError, TierOffline
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import slot_stride_bytes
from tierd.core.units import NS_PER_MS, MiB
from tierd.service.config import Limits
from tierd.service.descriptors import DescriptorSocket, Handed, Owner
from tierd.service.shell import Shell
from tierd.service.wire import EventReader, fault_to_wire
from tierd.transfer.doubts import Doubts
from tierd_proto.v1 import tierd_pb2 as pb
from tierd_proto.v1.tierd_pb2_grpc import TierdServicer

PROTOCOL = 1

_CHUNK_BYTES = 2 * MiB
_OUTGOING_MAX = 65536
"""Messages that wait for a client to read them. One that lags further behind is cut off."""

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]

log = logging.getLogger("tierd.sessions")


class ClientStream:
    """One client's stream, and what the daemon keeps for it."""

    def __init__(self, number: int, owner: Owner | None, fences: int, context: Any) -> None:
        self.number = number
        self.owner = owner
        self.namespaces: set[int] = set()
        self.task = asyncio.current_task()
        self.fence_descriptor: int | None = None
        self._fences: memoryview | None = None
        self._context = context
        self._outgoing: deque[pb.ServerMessage] = deque()
        self._writing = False
        if owner is not None:
            self.fence_descriptor = os.memfd_create("tierd-fences", os.MFD_CLOEXEC)
            os.ftruncate(self.fence_descriptor, 8 * fences)
            self._fences = memoryview(mmap.mmap(self.fence_descriptor, 8 * fences)).cast("Q")

    def set_fence(self, fence: int, lease: int) -> None:
        """Show the client's process that `lease` holds, or with 0 that it no longer does."""
        if self._fences is not None:
            self._fences[fence] = lease

    def send(self, message: pb.ServerMessage) -> None:
        """Queue a message. It is written by the session's own loop, or by a task if that waits."""
        self._outgoing.append(message)
        if len(self._outgoing) > _OUTGOING_MAX:
            log.warning("session %d does not read its replies: cut off", self.number)
            self.cut_off()
        if not self._writing:
            asyncio.get_running_loop().call_soon(self._write_in_background)

    async def write(self) -> None:
        """Write what is queued, unless that is being done already."""
        if self._writing:
            return
        self._writing = True
        try:
            while self._outgoing:
                await self._context.write(self._outgoing.popleft())
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.BaseError):
            self.cut_off()  # The client is gone; its stream's loop sees the same and cleans up.
        finally:
            self._writing = False

    def cut_off(self) -> None:
        """End the stream from this side."""
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        if self.fence_descriptor is not None:
            os.close(self.fence_descriptor)
            self.fence_descriptor = None

    def _write_in_background(self) -> None:
        if self._outgoing and not self._writing:
            self._background = asyncio.get_running_loop().create_task(self.write())


class Sessions(TierdServicer):
    """Serves `tierd.v1.Tierd`, and says what the descriptor socket may hand over."""

    def __init__(
        self,
        shell: Shell,
        limits: Limits,
        tiers: list[pb.TierInfo],
        boot: bytes,
        status: Callable[[], pb.StatusReply],
        doubts: Doubts,
    ) -> None:
        self._shell = shell
        self._limits = limits
        self._tiers = tiers
        self._boot = boot
        self._status = status
        self._doubts = doubts
        self._sessions: dict[int, ClientStream] = {}
        self.descriptors: DescriptorSocket | None = None

    # ---- the session stream

    async def Session(self, request_iterator: Any, context: Any) -> None:
        """Serve one client until its stream ends."""
        first = await _next_message(context)
        if first is EOF:
            return
        try:
            session = self._hello(first, context)
        except TierdError as error:
            await context.write(pb.ServerMessage(request=first.request, fault=fault_to_wire(error)))
            return
        reader = EventReader(session.number, self._limits.keys_per_request_max)
        try:
            await session.write()
            while (message := await _next_message(context)) is not EOF:
                self._take(session, reader, message)
                await session.write()
        finally:
            self._end(session)

    def _hello(self, first: pb.ClientMessage, context: Any) -> ClientStream:
        hello = first.hello
        if first.WhichOneof("body") != "hello" or hello.protocol != PROTOCOL:
            remedy = f"say hello with protocol {PROTOCOL}; use a client of this release"
            raise InvalidRequest("protocol", str(hello.protocol), remedy)
        if len(self._sessions) >= self._limits.sessions_max:
            raise Overloaded("sessions (limits.sessions_max)", 1000 * NS_PER_MS)
        owner = self._owner(hello.admission, context)
        number = secrets.randbits(62) + 1
        session = ClientStream(number, owner, self._limits.leases_per_session_max, context)
        if owner is not None:
            owner.session = number
        self._sessions[number] = session
        self._shell.sessions[number] = session
        self._shell.feed(ev.OpenSession(number, owner.number if owner else None))
        reply = pb.HelloReply(
            protocol=PROTOCOL,
            session=number,
            boot=self._boot,
            version=version("tierd"),
            tiers=self._tiers,
            entry=self._shell.store.config.entry,
        )
        session.send(pb.ServerMessage(request=first.request, hello=reply))
        log.info("session %d of %r opened", number, hello.client)
        return session

    def _owner(self, admission: bytes, context: Any) -> Owner | None:
        """Return the process behind a session; None for a client of another host.

        gRPC does not tell the user at the other end of a unix socket, the descriptor socket
        does: so on a unix socket admission is not optional.
        """
        owner = self.descriptors.admitted(admission) if self.descriptors and admission else None
        local = context.peer().startswith("unix")
        if owner is None and (local or admission):
            remedy = "get a token from the descriptor socket first"
            raise InvalidRequest("admission", "no valid token", remedy)
        if owner is not None and owner.session is not None:
            raise InvalidRequest("admission", "a used token", "get one for every session")
        return owner

    def _take(self, session: ClientStream, reader: EventReader, message: pb.ClientMessage) -> None:
        # A client has no more to release; a longer list would hold up all the others.
        for lease in message.released[: self._limits.leases_per_session_max]:
            self._shell.feed(ev.Release(session.number, lease))
        if message.WhichOneof("body") is None and not message.request:
            return
        if message.HasField("ping"):
            session.send(pb.ServerMessage(request=message.request, pong=message.ping))
            return
        try:
            event = reader.read(message, monotonic_ns())
            if not isinstance(event, ev.OpenNamespace) and hasattr(event, "namespace"):
                namespace = self._shell.checked_namespace(session, event.namespace)
                _check_part(event, namespace.layout)
            self._feed(event)
        except TierdError as error:
            if message.request:
                session.send(pb.ServerMessage(request=message.request, fault=fault_to_wire(error)))

    def _feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.ReadFailed):
            # Its prefix ends there, but whether the copy is to be given up we see for ourselves.
            event = replace(event, unanswered=True)
            lease = self._lease(event.session, event.lease)
            if lease is not None and event.index < len(lease.found):
                tier = lease.found[event.index]
                if tier > self._shell.store.config.entry:
                    self._doubts.look(lease.blocks[event.index], tier)
        self._shell.feed(event)

    def _end(self, session: ClientStream) -> None:
        del self._sessions[session.number]
        if session.owner is not None:
            session.owner.session = None
        # Its process may live on, so its fences are still to be cleared.
        self._shell.feed(ev.CloseSession(session.number))
        del self._shell.sessions[session.number]
        session.close()
        log.info("session %d closed", session.number)

    # ---- bytes for clients that do not map memory

    async def Read(self, request: pb.ReadRequest, context: Any) -> AsyncIterator[pb.Chunk]:
        """Send the parts of leased blocks."""
        lease = self._lease(request.session, request.lease)
        if lease is None:
            return
        layout = self._shell.store.catalog.namespaces[lease.namespace].layout
        first = request.part * layout.part_stride_bytes
        scratch = memoryview(mmap.mmap(-1, layout.block_bytes))
        for index in range(request.first, request.first + request.blocks):
            payload = await self._payload(lease, index, scratch)
            # The lease may have run out while the last chunk was on its way.
            if payload is None or self._lease(request.session, request.lease) is None:
                return
            part = payload[first : first + layout.part_bytes]
            for at in range(0, len(part), _CHUNK_BYTES):
                yield pb.Chunk(index=index, offset=at, data=bytes(part[at : at + _CHUNK_BYTES]))

    async def _payload(self, lease: Lease, index: int, scratch: memoryview) -> memoryview | None:
        """Return a leased block's bytes, in place or read into `scratch`; None if they are lost."""
        if not 0 <= index < len(lease.blocks):
            return None
        block = lease.blocks[index]
        entry = self._shell.store.config.entry
        slot = block.slots[entry]
        if slot is not None:
            return self._shell.rows[lease.namespace].entry.view(slot)
        copies = [(t, s) for t, s in enumerate(block.slots) if s is not None]
        if not copies:
            return None
        tier, slot = copies[0]
        mover = self._shell.mover
        fault = await mover.read_into(lease.namespace, tier, slot, block.key, scratch)
        if fault is None:
            return scratch
        # Without an answer the tier may still write to `scratch`: nothing more is read into it.
        unanswered = fault == "target"
        self._shell.feed(ev.ReadFailed(lease.session, lease.number, index, unanswered))
        return None

    async def Write(self, request_iterator: Any, context: Any) -> pb.WriteReply:
        """Take the parts of reserved blocks."""
        received: dict[int, int] = {}
        part_bytes = 0
        async for chunk in request_iterator:
            lease = self._lease(chunk.session, chunk.lease)
            if lease is None or chunk.index >= len(lease.writings):
                break
            layout = self._shell.store.catalog.namespaces[lease.namespace].layout
            part_bytes = layout.part_bytes
            if chunk.offset + len(chunk.data) > part_bytes:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "chunk beyond the part's end")
            slot = self._shell.rows[lease.namespace].entry.view(lease.writings[chunk.index].slot)
            start = lease.part * layout.part_stride_bytes + chunk.offset
            slot[start : start + len(chunk.data)] = chunk.data
            received[chunk.index] = received.get(chunk.index, 0) + len(chunk.data)
        whole = 0
        while received.get(whole) == part_bytes:
            whole += 1
        return pb.WriteReply(blocks=whole)

    def _lease(self, session: int, number: int) -> Lease | None:
        lease = self._shell.store.leases.leases.get(number)
        if lease is None or lease.expired or lease.session != session:
            return None
        return lease

    # ---- the rest

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        """Say what the daemon is and holds."""
        return self._status()

    def hand_over(self, owner: Owner, request: pb.DescriptorRequest) -> Handed:
        """Return the descriptor that a process asks for, if its session may have it."""
        session = self._sessions.get(owner.session) if owner.session else None
        if session is None:
            return _refused("say hello on the session stream first, with the token")
        kind = request.WhichOneof("want")
        if kind == "fences":
            # A descriptor of its own, since the client may only read.
            descriptor = os.open(f"/proc/self/fd/{session.fence_descriptor}", os.O_RDONLY)
            size = 8 * self._limits.leases_per_session_max
            return Handed(pb.DescriptorReply(bytes=size), descriptor, close=True)
        wanted: Message = getattr(request, kind or "arena")
        namespace, tier = getattr(wanted, "namespace", 0), getattr(wanted, "tier", 0)
        if namespace not in session.namespaces or not 0 <= tier < len(self._tiers):
            return _refused(f"namespace {namespace}, tier {tier}: open the namespace first")
        space: Any = self._shell.space(namespace, tier)
        if kind == "arena":
            return _hand_arena(space)
        return _hand_segment(space, request.segment.region)

    def owner_gone(self, owner: Owner) -> None:
        """Close the session of a process that is dead or has let go of its memory."""
        if owner.session is not None:
            # A forked child may keep the stream's socket open; the session ends all the same.
            self._sessions[owner.session].cut_off()
        asyncio.get_running_loop().call_soon(self._shell.feed, ev.OwnerGone(owner.number))


async def _next_message(context: Any) -> Any:
    """Return what comes next; EOF, too, if that is no message."""
    try:
        return await context.read()
    except DecodeError:
        log.warning("a client sent what is no message: cut off")
        return EOF


def _hand_arena(space: Any) -> Handed:
    if hasattr(space, "export"):
        return Handed(pb.DescriptorReply(slot_stride=space.slot_bytes, cuda=space.export()))
    if not hasattr(space, "arena"):
        return _refused("this tier has no arena: read its segments")
    reply = pb.DescriptorReply(bytes=space.arena.size, slot_stride=space.slot_bytes)
    return Handed(reply, space.arena.descriptor)


def _hand_segment(space: Any, region: int) -> Handed:
    if not hasattr(space, "open_segment") or region not in space.regions():
        return _refused(f"no segment {region} in this tier")
    first = space.slot_offset(region * space.spec.region_slots)
    stride = slot_stride_bytes(space.spec.layout)
    header = stride - space.spec.layout.block_bytes
    reply = pb.DescriptorReply(slot_stride=stride, slot_header=header, first_slot=first)
    try:
        return Handed(reply, space.open_segment(region), close=True)
    except TierOffline as error:
        return _refused(error.cause)


def _refused(why: str) -> Handed:
    return Handed(pb.DescriptorReply(refused=why))


def _check_part(event: Any, layout: LayoutSpec) -> None:
    part = getattr(event, "part", None)
    part = getattr(event, "reserve_part", part)
    if part is not None and part >= layout.shards:
        raise InvalidRequest("part", str(part), f"the layout has {layout.shards} shards")
