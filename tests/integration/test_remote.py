"""Clients on other hosts, and who is not let in."""

import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.blocks import LAYOUT, ODD, SHARDED, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.peers import Peer
from tests.integration.test_spill import SMALL_HOST
from tierd.core.layouts import LayoutSpec
from tierd.core.units import MiB
from tierd_client import Client, DaemonUnreachable, InvalidRequest, connect
from tierd_proto.v1 import tierd_pb2 as pb
from tierd_proto.v1.tierd_pb2_grpc import TierdStub

NOBODY = 65534


@pytest.fixture
def remote(shared_daemon: Daemon) -> Iterator[Client]:
    """A client that reaches the shared daemon over TCP."""
    with connect(shared_daemon.tcp) as client:
        yield client


@pytest.mark.parametrize("layout", [LAYOUT, ODD, SHARDED], ids=["whole pages", "odd", "shards"])
def test_the_same_calls_over_tcp(client: Client, remote: Client, layout: LayoutSpec) -> None:
    here, there = client.open(layout), remote.open(layout)
    keys = chain(1, 20, layout)
    for part in range(layout.shards):
        assert publish(there, keys, part) == 20
    for part in range(layout.shards):
        assert fetch(here, keys, part) == 20
        assert fetch(there, keys, part) == 20
    into = room(keys, layout)
    assert list(there.fetch(keys, into).routes) == ["remote"]
    assert there.match(keys).by_tier == {"host": 20}
    with there.fetch_views(keys, part=layout.shards - 1) as views:
        assert b"".join(views) == content(keys, layout, layout.shards - 1).tobytes()
    eventually(lambda: client.status().leases == 0)


def test_a_reservation_over_tcp(client: Client, remote: Client) -> None:
    here, there = client.open(LAYOUT), remote.open(LAYOUT)
    keys = chain(2, 6)
    fetched, reservation = there.fetch_and_reserve(keys, room(keys))
    with reservation:
        assert (fetched.blocks, reservation.indices) == (0, tuple(range(6)))
        for view, row in zip(reservation.views, content(keys), strict=True):
            view[:] = row.tobytes()
        assert here.match(keys).blocks == 0
        assert reservation.seal() == 6
    assert fetch(here, keys) == 6
    given_up = there.reserve(chain(3, 6))
    given_up.abort()
    eventually(lambda: client.status().leases == 0)
    assert here.match(chain(3, 6)).blocks == 0


def test_blocks_on_disk_over_tcp(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST, listen__tcp="127.0.0.1:0")
    keys = chain(1, 30)
    with connect(daemon.tcp) as remote:
        assert publish(remote.open(LAYOUT), keys) == 30
    daemon.restart()
    with connect(daemon.tcp) as remote, daemon.client() as client:
        kv = remote.open(LAYOUT)
        held = client.open(LAYOUT).reserve(chain(2, 20))
        assert len(held.indices) == 20
        into = room(keys)
        fetched = kv.fetch(keys, into)
        assert fetched.blocks == fetched.by_tier["disk"] == 30
        assert np.array_equal(into, content(keys))
        with kv.fetch_views(keys) as views:
            assert b"".join(views) == content(keys).tobytes()


def test_a_remote_client_lives_through_a_restart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, listen__tcp="127.0.0.1:0")
    with connect(daemon.tcp) as remote:
        kv = remote.open(LAYOUT)
        keys = chain(1, 20)
        assert publish(kv, keys) == 20
        reservation = kv.reserve(chain(2, 5))
        daemon.settings["listen.tcp"] = daemon.tcp
        daemon.stop()
        eventually(lambda: remote.tiers == ())
        assert fetch(kv, keys) == 0
        reservation.write(content(chain(2, 5)))
        assert reservation.seal() == 0
        daemon.start()
        eventually(lambda: remote.tiers)
        assert fetch(kv, keys) == 20


# ---- who is not let in


def _first_reply(address: str, hello: pb.Hello) -> pb.ServerMessage:
    with grpc.insecure_channel(address) as channel:
        messages = iter([pb.ClientMessage(request=7, hello=hello)])
        replies = TierdStub(channel).Session(messages)
        first: pb.ServerMessage = next(replies)
        replies.cancel()
        return first


@pytest.mark.parametrize("admission", [b"", b"0" * 16], ids=["none", "a guess"])
def test_a_local_client_needs_admission(shared_daemon: Daemon, admission: bytes) -> None:
    hello = pb.Hello(protocol=1, admission=admission)
    reply = _first_reply(f"unix:{shared_daemon.address}", hello)
    assert (reply.request, reply.fault.kind) == (7, "InvalidRequest")
    assert reply.fault.fields["field"] == "admission"


def test_another_protocol_version_is_refused(shared_daemon: Daemon) -> None:
    reply = _first_reply(shared_daemon.tcp, pb.Hello(protocol=2))
    assert reply.fault.message.startswith("protocol is 2: say hello with protocol 1")


def test_a_namespace_must_be_opened_first(shared_daemon: Daemon) -> None:
    with grpc.insecure_channel(shared_daemon.tcp) as channel:
        messages = [
            pb.ClientMessage(request=1, hello=pb.Hello(protocol=1)),
            pb.ClientMessage(request=2, match=pb.Match(namespace=0)),
            pb.ClientMessage(request=3, match=pb.Match(namespace=99)),
            pb.ClientMessage(request=4, seal=pb.Seal(lease=1, blocks=1)),
            pb.ClientMessage(request=5, renew=pb.Renew(lease=1)),
            pb.ClientMessage(request=6),
            pb.ClientMessage(request=7, open=pb.Open(name="empty")),
            pb.ClientMessage(request=8, hello=pb.Hello(protocol=1)),
            pb.ClientMessage(release=pb.Release(lease=1)),
            pb.ClientMessage(read_failed=pb.ReadFailed(lease=1, index=9)),
            pb.ClientMessage(end_turn=pb.EndTurn(namespace=5)),
            pb.ClientMessage(request=9, ping=pb.Ping()),
        ]
        replies = list(TierdStub(channel).Session(iter(messages)))
    kinds = {reply.request: reply.fault.kind for reply in replies}
    assert kinds.pop(1) == kinds.pop(9) == ""
    expired = {number for number, kind in kinds.items() if kind == "LeaseExpired"}
    assert expired == {4, 5}
    assert {kinds[number] for number in kinds.keys() - expired} == {"InvalidRequest"}
    assert kinds.keys() == {2, 3, 4, 5, 6, 7, 8}


def test_bytes_are_only_for_who_holds_the_lease(client: Client, shared_daemon: Daemon) -> None:
    kv = client.open(LAYOUT)
    publish(kv, chain(4, 3))
    with kv.fetch_views(chain(4, 3)), grpc.insecure_channel(shared_daemon.tcp) as channel:
        stub = TierdStub(channel)
        for lease in range(1, 200):
            request = pb.ReadRequest(session=1, lease=lease, blocks=3)
            assert list(stub.Read(request)) == []
            chunk = pb.WriteChunk(session=1, lease=lease, data=b"wrong")
            assert stub.Write(iter([chunk])).blocks == 0


def _connect_as(pipe: "Connection[Any, Any]", address: str, uid: int) -> None:
    with connect(address, wait_s=0.0) as client:  # as root: all is imported now
        fetch(client.open(LAYOUT), chain(1, 3))
    pipe.send(os.getuid())
    pipe.recv()
    os.setuid(uid)
    try:
        with connect(address, wait_s=0.0) as client:
            pipe.send(fetch(client.open(LAYOUT), chain(1, 3)))
    except DaemonUnreachable as error:
        pipe.send(str(error))


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@needs_root
@pytest.mark.parametrize("mode", [None, 0o666], ids=["by the file", "by the process"])
def test_another_user_is_refused(start_daemon: StartDaemon, mode: int | None) -> None:
    daemon = start_daemon()
    with Peer(_connect_as, daemon.address, NOBODY) as peer:
        assert peer.take() == 0
        if mode is not None:
            for name in (daemon.address, f"{daemon.address}.fds"):
                os.chmod(name, mode)
        peer.go_on()
        told = peer.take()
    assert ("Permission denied" if mode is None else f"user {NOBODY} is not admitted") in told
    assert daemon.status().leases == 0


@needs_root
def test_a_user_who_is_allowed_is_let_in(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(tenancy__allowed_uids=f"[{NOBODY}]")
    with daemon.client() as client, Peer(_connect_as, daemon.address, NOBODY) as peer:
        publish(client.open(LAYOUT), chain(1, 3))
        assert peer.take() == 0
        peer.go_on()
        assert peer.take() == 3


@needs_root
def test_both_sockets_are_private_by_default(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    modes = [os.stat(f"{daemon.address}{suffix}").st_mode & 0o777 for suffix in ("", ".fds")]
    assert modes == [0o600, 0o600]


# ---- for tools


def test_health_and_reflection(shared_daemon: Daemon) -> None:
    with grpc.insecure_channel(f"unix:{shared_daemon.address}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tierd.v1.Tierd"):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert "tierd.v1.Tierd" in set(services)


def test_an_address_with_nobody_says_so(shared_daemon: Daemon) -> None:
    with pytest.raises(InvalidRequest):
        connect("nonsense")
    with pytest.raises(DaemonUnreachable, match="no socket there"):
        connect(f"{shared_daemon.address}-other", wait_s=0.0)
    threads = threading.active_count()
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        connect("127.0.0.1:1", wait_s=0.0)
    eventually(lambda: threading.active_count() <= threads)
