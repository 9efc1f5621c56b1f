"""The client: one connection to a daemon, made anew by itself when the daemon comes back."""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Final, Self

import grpc

from tierd.core.addresses import Address, parse_address
from tierd.core.errors import DaemonUnreachable, TierdError
from tierd.core.layouts import LayoutSpec
from tierd_client.connection import Connection, Opened
from tierd_client.loader import Loader, LocalLoader, RemoteLoader, Threads
from tierd_client.namespace import Namespace
from tierd_client.stream import StreamClosed
from tierd_proto.v1 import tierd_pb2 as pb

_RETRY_S_MIN: Final = 0.05
_RETRY_S_MAX: Final = 1.0
_OPEN_TIMEOUT_S: Final = 10.0

log = logging.getLogger("tierd.client")

_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()
_left_by_parent: list[Any] = []


def connect(address: str = "", wait_s: float = 5.0, name: str = "") -> "Client":
    """Return a client of the daemon at `address`, trying for up to `wait_s`.

    `address` is `unix:/path`, `/path` or `host:port`; empty is the default socket. `name` is for
    the daemon's logs.

    Raises:
        DaemonUnreachable: nobody answers in time.
        InvalidRequest: `address` is none of these.
    """
    return Client(parse_address(address), wait_s, name)


class Client:
    """A connection that survives its daemon's restarts.

    Concurrency: any method from any thread. While the daemon is away everything is a miss; a
    thread of the client tries to reach it again.

    Fork: a child starts with no connection and makes its own at its first call. gRPC itself can
    abort a child that was forked while another thread was in a call: fork while idle.
    """

    def __init__(self, address: Address, wait_s: float, name: str) -> None:
        self._address = address
        self._name = name or f"pid {os.getpid()}"
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connection: Connection | None = None
        self._reconnecting = True  # Until there is a first connection, it is tried for here.
        self._threads = Threads()
        self._layouts: dict[tuple[str, bytes], LayoutSpec] = {}
        until_s = time.monotonic() + wait_s
        while self._connection is None:
            try:
                self._connection = Connection(address, self._name, self._lost)
            except DaemonUnreachable:
                if time.monotonic() >= until_s:
                    self.close()
                    raise
                self._closed.wait(_RETRY_S_MIN)
        self._reconnecting = False
        _clients.add(self)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the daemon's tiers, hottest first; empty while it is away."""
        connection = self.connection()
        return connection.tiers if connection else ()

    def maps(self, tiers: Iterable[str]) -> bool:
        """Say whether this process sees the bytes of all these tiers in its own memory.

        False while the daemon is away, for tiers that it has not, and over the network.
        """
        connection = self.connection()
        if connection is None or not connection.maps_all:
            return False
        mapped = dict(zip(connection.tiers, connection.mapped, strict=True))
        return all(mapped.get(tier, False) for tier in tiers)

    def open(self, layout: LayoutSpec, name: str = "") -> Namespace:
        """Return the namespace of `layout`, opening it in the daemon.

        `name` is for people; without it the layout's fingerprint is the name. While the daemon
        is away the namespace is opened when it is back.

        Raises:
            NamespaceConflict: the name is taken by another layout.
        """
        namespace = Namespace(self, layout, name)
        connection = self.connection()
        if connection is not None:
            try:
                connection.open(name, layout, _OPEN_TIMEOUT_S)
            except (StreamClosed, TimeoutError):
                log.warning("the daemon went away; the namespace is opened when it is back")
        self._layouts[name, layout.fingerprint] = layout
        return namespace

    def status(self) -> pb.StatusReply:
        """Return what the daemon is and holds.

        Raises:
            DaemonUnreachable: it is away.
        """
        connection = self._need()
        try:
            reply: pb.StatusReply = connection.stream.stub.Status(pb.StatusRequest(), timeout=5)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel is closed.
            raise DaemonUnreachable(self._address.target, "it does not answer") from error
        return reply

    def ping(self) -> None:
        """Go to the daemon and back on the session's stream.

        Raises:
            DaemonUnreachable: it is away.
        """
        try:
            self._need().stream.ask(ping=pb.Ping()).result(5)
        except (StreamClosed, TimeoutError) as error:
            raise DaemonUnreachable(self._address.target, "it does not answer") from error

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._closed.set()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        # Calls under way keep the threads that they have: these end with the last of them.
        self._threads = Threads()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- for namespaces

    def connection(self) -> Connection | None:
        """Return the live connection; None while the daemon is away."""
        connection = self._connection
        if connection is not None and connection.alive:
            return connection
        self._reconnect()
        return None

    def report(self, error: TierdError) -> None:
        """Say once for each that a namespace cannot be used since the daemon came back."""
        log.error("%s", error)

    def loader(self, connection: Connection, opened: Opened, layout: LayoutSpec) -> Loader:
        """Return what brings blocks of a namespace over."""
        if connection.memory is None:
            return RemoteLoader(connection, layout, self._threads)
        return LocalLoader(connection, opened, layout, self._threads)

    def prepare_reads(self, layout: LayoutSpec, part: int) -> None:
        """Have ready what reads blocks past the daemon."""
        self._threads.prepare(layout, part)

    # ---- reaching the daemon again

    def _need(self) -> Connection:
        connection = self.connection()
        if connection is None:
            raise DaemonUnreachable(self._address.target, "it went away")
        return connection

    def _lost(self) -> None:
        """In the reader thread: the stream has ended."""
        if not self._closed.is_set():
            self._reconnect()

    def _reconnect(self) -> None:
        with self._lock:
            if self._reconnecting or self._closed.is_set():
                return
            self._reconnecting = True
        threading.Thread(target=self._reach, name="tierd-reconnect", daemon=True).start()

    def _reach(self) -> None:
        with self._lock:
            old, self._connection = self._connection, None
        if old is not None:
            old.close()
        delay_s = _RETRY_S_MIN
        while not self._closed.is_set():
            try:
                found = Connection(self._address, self._name, self._lost)
            except DaemonUnreachable:
                self._closed.wait(delay_s)
                delay_s = min(2 * delay_s, _RETRY_S_MAX)
                continue
            self._open_again(found)
            with self._lock:
                self._connection = found
                self._reconnecting = False
            if self._closed.is_set():
                found.close()
            return

    def _open_again(self, connection: Connection) -> None:
        """Open what was open before, so that the first call does not wait for that."""
        for (name, _), layout in list(self._layouts.items()):
            # A refusal is reported by the call that meets it.
            with contextlib.suppress(TierdError, StreamClosed, TimeoutError):
                connection.open(name, layout, _OPEN_TIMEOUT_S)

    def forget_parent(self) -> None:
        """In a forked child: leave everything to the parent, and start anew."""
        _left_by_parent.append((self._connection, self._threads))
        self._lock = threading.Lock()
        self._connection = None
        self._reconnecting = False
        self._threads = Threads()


def _after_fork() -> None:
    for client in list(_clients):
        client.forget_parent()


os.register_at_fork(after_in_child=_after_fork)
