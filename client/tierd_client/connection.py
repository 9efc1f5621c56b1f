"""One connection to one run of a daemon. When the run ends, so does the connection."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import grpc

from tierd.core.addresses import Address
from tierd.core.errors import DaemonUnreachable, TierdError
from tierd.core.layouts import LayoutSpec
from tierd_client.memory import DaemonMemory, Refused
from tierd_client.splitting import Splitter
from tierd_client.stream import SessionStream, StreamClosed
from tierd_client.wire import layout_to_wire
from tierd_proto.v1 import tierd_pb2 as pb

PROTOCOL: Final = 1
_HELLO_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A namespace as this run of the daemon knows it."""

    number: int
    region_slots: tuple[int, ...]


class Connection:
    """A session with one run of a daemon, and this process's mapping of its memory.

    `on_closed` is called once, in another thread, when the stream has ended.

    Raises:
        DaemonUnreachable: nobody answers, or it does not admit this process.
    """

    def __init__(self, address: Address, name: str, on_closed: Callable[[], None]) -> None:
        self._namespaces: dict[tuple[str, bytes], Opened] = {}
        self._news: dict[int, queue.SimpleQueue[Any]] = {}
        self._splitters: dict[bytes, Splitter] = {}
        self.splitting = threading.Lock()
        self._lock = threading.Lock()
        self._on_closed = on_closed
        self.memory = _memory(address)
        self.stream = SessionStream(address.target, self._on_reply, self._stream_closed)
        admission = self.memory.admission if self.memory else b""
        hello = pb.Hello(protocol=PROTOCOL, client=name, admission=admission)
        try:
            reply = self.stream.ask(hello=hello).result(_HELLO_TIMEOUT_S).hello
            if self.memory:
                self.memory.map_fences()
        except (StreamClosed, TimeoutError, TierdError, OSError, Refused) as error:
            self.close()
            raise DaemonUnreachable(address.target, _cause(error)) from error
        self.session = reply.session
        self.tiers = tuple(tier.name for tier in reply.tiers)
        self.mediums = tuple(tier.medium for tier in reply.tiers)
        self.mapped = tuple(tier.mapped for tier in reply.tiers)
        self.entry = reply.entry

    @property
    def alive(self) -> bool:
        return not self.stream.closed

    @property
    def maps_all(self) -> bool:
        """Say whether every mapped tier is CPU memory of this process."""
        return self.memory is not None and "cuda" not in self.mediums

    def open(self, name: str, layout: LayoutSpec, timeout_s: float) -> Opened:
        """Return the namespace's number, opening it if this connection has not.

        Raises:
            NamespaceConflict: the name is taken by another layout.
            StreamClosed: the daemon is gone.
        """
        key = (name, layout.fingerprint)
        with self._lock:
            known = self._namespaces.get(key)
        if known is not None:
            return known
        body = pb.Open(name=name, layout=layout_to_wire(layout))
        reply = self.stream.ask(open=body).result(timeout_s).open
        opened = Opened(reply.namespace, tuple(reply.region_slots))
        self._map(opened)
        with self._lock:
            return self._namespaces.setdefault(key, opened)

    def splitter(self, layout: LayoutSpec) -> Splitter:
        """Return what chooses the routes of a layout's fetches, to be used under `splitting`."""
        return self._splitters.setdefault(layout.fingerprint, Splitter())

    def news(self, lease: int) -> "queue.SimpleQueue[Any]":
        """Return where `Landed` of a lease is put, from before its reply was seen.

        None is put there when nothing more will come.
        """
        with self._lock:
            return self._news.setdefault(lease, queue.SimpleQueue())

    def release(self, lease: int) -> None:
        """End a lease. Nobody waits for it."""
        if lease:
            with self._lock:
                self._news.pop(lease, None)
            self.stream.release(lease)

    def release_when_answered(self, future: "Future[pb.ServerMessage]") -> None:
        """Give back what the answer to an abandoned request grants, should it still come."""

        def done(future: "Future[pb.ServerMessage]") -> None:
            if future.exception() is not None:
                return
            message = future.result()
            for lease in (
                message.fetch.lease,
                message.fetch.reserved.lease,
                message.reserve.lease,
                message.match.lease,
            ):
                self.release(lease)

        future.add_done_callback(done)

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self.stream.close()
        if self.memory:
            self.memory.close()

    def _map(self, opened: Opened) -> None:
        """Map a namespace's slots now, so that no fetch has to ask for them.

        Raises:
            StreamClosed: the daemon does not hand them over. The session is ended.
        """
        if self.memory is None:
            return
        try:
            for tier, (mapped, medium) in enumerate(zip(self.mapped, self.mediums, strict=True)):
                if mapped and medium != "cuda":
                    self.memory.arena(opened.number, tier)
        except (OSError, Refused) as error:
            self.stream.close()
            raise StreamClosed from error

    def _on_reply(self, message: pb.ServerMessage) -> None:
        # In the reader thread: a lease is known before its first block can land.
        if message.HasField("fetch") and message.fetch.run_pending:
            self.news(message.fetch.lease)
        elif message.HasField("landed"):
            with self._lock:
                news = self._news.get(message.landed.lease)
            if news is not None:
                news.put(message.landed)

    def _stream_closed(self) -> None:
        with self._lock:
            everybody = list(self._news.values())
        for news in everybody:
            news.put(None)
        self._on_closed()


def _memory(address: Address) -> DaemonMemory | None:
    """Map the daemon's memory where it is on this host."""
    if not address.path:
        return None
    try:
        return DaemonMemory(address.path)
    except (OSError, Refused) as error:
        raise DaemonUnreachable(address.target, _cause(error)) from error


def _cause(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no socket there"
    if isinstance(error, grpc.RpcError | StreamClosed):
        return "it does not answer"
    return str(error) or type(error).__name__
