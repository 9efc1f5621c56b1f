"""One session stream: requests out, replies back to whoever waits for them.

One reader thread hands every reply to the future of its request, so any number of threads may
call at once and none waits for another's answer.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from typing import Any, Final

import grpc

from tierd_client.wire import error_from_wire
from tierd_proto.v1 import tierd_pb2 as pb
from tierd_proto.v1.tierd_pb2_grpc import TierdStub

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A forked child or a second client must not share a connection with this one.
    ("grpc.use_local_subchannel_pool", 1),
)


_RELEASE_DELAY_S: Final = 0.005
"""How long the end of a lease waits for a message to ride on."""


class StreamClosed(Exception):
    """The stream has ended. Whoever was waiting for an answer will not get one."""


def _do_nothing(*_: object) -> None:
    """Stand in for what is not called any more."""


class SessionStream:
    """A bidirectional stream to one daemon.

    `on_reply` is called in the reader thread with every message before its future is set;
    `on_closed` there once, when the stream has ended.
    """

    def __init__(
        self,
        target: str,
        on_reply: Callable[[pb.ServerMessage], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._on_reply: Callable[[pb.ServerMessage], None] = on_reply
        self._on_closed: Callable[[], None] = on_closed
        self._numbers = count(1)
        self._outgoing: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
        self._waiting: dict[int, Future[pb.ServerMessage]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self.stub = TierdStub(self._channel)
        self._replies: Any = self.stub.Session(self._messages())
        self._ended: deque[int] = deque()
        self._any_ended = threading.Event()
        self._gone = threading.Event()
        self._reader = threading.Thread(target=self._read, name="tierd-reader", daemon=True)
        self._reader.start()
        threading.Thread(target=self._send_late_releases, name="tierd-release", daemon=True).start()

    def ask(self, **body: Any) -> "Future[pb.ServerMessage]":
        """Send a request; the future has its reply, or a TierdError, or StreamClosed."""
        future: Future[pb.ServerMessage] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._closed:
                future.set_exception(StreamClosed())
                return future
            self._waiting[number] = future
        self._outgoing.put(pb.ClientMessage(request=number, released=self._released(), **body))
        return future

    def tell(self, **body: Any) -> None:
        """Send a message that is not answered. Nothing happens if the stream has ended."""
        self._outgoing.put(pb.ClientMessage(request=0, **body))

    def release(self, lease: int) -> None:
        """End a lease. It goes with the next message, or alone if none follows soon."""
        self._ended.append(lease)
        self._any_ended.set()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the stream. Safe to call twice."""
        self._outgoing.put(None)
        self._reader.join(timeout=1)
        self._channel.close()

    def _released(self) -> list[int]:
        """Take the leases that have ended since the last message. Any thread may append."""
        released = []
        with contextlib.suppress(IndexError):  # Any thread may take, too.
            while True:
                released.append(self._ended.popleft())
        return released

    def _send_late_releases(self) -> None:
        while self._any_ended.wait() and not self._closed:
            self._any_ended.clear()
            self._gone.wait(_RELEASE_DELAY_S)
            if self._ended:
                self._outgoing.put(pb.ClientMessage(request=0, released=self._released()))

    def _messages(self) -> Iterator[pb.ClientMessage]:
        return iter(self._outgoing.get, None)

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for message in self._replies:
                self._on_reply(message)
                self._answer(message)
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            self._gone.set()
            self._any_ended.set()
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(StreamClosed())
        on_closed = self._on_closed
        # These hold whoever holds us, and with that the memory of a daemon that is gone; the call
        # keeps the frames that it failed in. Engines hardly ever collect cycles.
        self._replies = None
        self._on_reply = self._on_closed = _do_nothing
        on_closed()

    def _answer(self, message: pb.ServerMessage) -> None:
        if not message.request:
            return
        with self._lock:
            future = self._waiting.pop(message.request, None)
        if future is None:
            return
        if message.HasField("fault"):
            future.set_exception(error_from_wire(message.fault))
        else:
            future.set_result(message)
