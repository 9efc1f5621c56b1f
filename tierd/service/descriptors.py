"""The descriptor socket: admits local processes and hands them what they map.

A connection stands for the process at its other end. When the process is dead, or the
connection closed, nobody writes through the descriptors it was given any more, and the store is
told. A forked child may hold the connection open: the death of the parent is what counts.
"""

import asyncio
import logging
import os
import secrets
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

from google.protobuf.message import DecodeError

from tierd_proto.v1 import tierd_pb2 as pb

_REQUEST_BYTES_MAX = 4096
_CONNECTIONS_MAX = 1024
_REST_S = 1.0

log = logging.getLogger("tierd.descriptors")


@dataclass(slots=True, eq=False)
class Owner:
    """A process that was admitted. `session` is set once it has said hello with its token."""

    number: int
    pid: int
    connection: socket.socket
    pidfd: int | None
    token: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    session: int | None = None


@dataclass(frozen=True, slots=True)
class Handed:
    """A reply, and the descriptor that goes with it; `close` it once it is sent."""

    reply: pb.DescriptorReply
    descriptor: int | None = None
    close: bool = False


class Store(Protocol):
    """Who knows what a session may have."""

    def hand_over(self, owner: Owner, request: pb.DescriptorRequest) -> Handed: ...

    def owner_gone(self, owner: Owner) -> None: ...


class DescriptorSocket:
    """Listens beside the unix socket. Only the daemon's own user and `uids` are admitted."""

    def __init__(self, path: Path, uids: frozenset[int], store: Store) -> None:
        self._path = path
        self._uids = uids | {os.getuid()}
        self._store = store
        self._numbers = count(1)
        self._by_token: dict[bytes, Owner] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        path.chmod(0o666 if uids else 0o600)
        self._socket.listen(64)
        self._listen()

    def admitted(self, token: bytes) -> Owner | None:
        """Return whose token this is."""
        return self._by_token.get(token)

    def close(self) -> None:
        """Stop listening, and let every connection go."""
        if self._socket.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for owner in list(self._by_token.values()):
            self._drop(owner)

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:  # No descriptors left: whoever knocks has to wait.
            log.warning("no process is admitted for now: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.call_later(_REST_S, self._listen)
            return
        connection.settimeout(0)
        pid, uid, _ = struct.unpack(
            "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        if uid not in self._uids or len(self._by_token) >= _CONNECTIONS_MAX:
            why = f"user {uid} is not admitted; add it to tenancy.allowed_uids"
            log.warning("refused process %d: %s", pid, why)
            _turn_away(connection, why)
            return
        owner = Owner(next(self._numbers), pid, connection, _pidfd(pid))
        self._by_token[owner.token] = owner
        loop = asyncio.get_running_loop()
        loop.add_reader(connection, self._readable, owner)
        if owner.pidfd is not None:
            loop.add_reader(owner.pidfd, self._drop, owner)

    def _readable(self, owner: Owner) -> None:
        try:
            packet = owner.connection.recv(_REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop(owner)
            return
        try:
            request = pb.DescriptorRequest.FromString(packet)
        except DecodeError:
            self._drop(owner)
            return
        if request.WhichOneof("want") == "admission":
            handed = Handed(pb.DescriptorReply(token=owner.token))
        else:
            handed = self._store.hand_over(owner, request)
        self._send(owner, handed)

    def _send(self, owner: Owner, handed: Handed) -> None:
        descriptors = [] if handed.descriptor is None else [handed.descriptor]
        try:
            socket.send_fds(owner.connection, [handed.reply.SerializeToString()], descriptors)
        except OSError:
            # A peer that does not read its replies is as good as gone.
            self._drop(owner)
        finally:
            if handed.close and handed.descriptor is not None:
                os.close(handed.descriptor)

    def _drop(self, owner: Owner) -> None:
        if self._by_token.pop(owner.token, None) is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(owner.connection)
        owner.connection.close()
        if owner.pidfd is not None:
            loop.remove_reader(owner.pidfd)
            os.close(owner.pidfd)
        self._store.owner_gone(owner)


def _turn_away(connection: socket.socket, why: str) -> None:
    """Say why, and close. What the peer has sent is taken first: unread, it would reset all."""
    with connection, suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
        while connection.recv(_REQUEST_BYTES_MAX):
            pass
        connection.send(pb.DescriptorReply(refused=why).SerializeToString())


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that tells when the process is dead; None if it cannot be seen."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
