"""Several clients on the same blocks: waiting for a writer, and views of one memory."""

from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, ODD, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, eventually
from tests.integration.peers import Peer
from tierd.core.units import MiB
from tierd_client import Client, DaemonUnreachable, Namespace, connect


def _waiting(client: Client) -> bool:
    return client.status().waiting > 0


def test_a_fetch_waits_for_the_writer(client: Client) -> None:
    kv = client.open(LAYOUT)
    keys = chain(1, 10)
    found: list[int] = []
    with kv.reserve(keys) as reservation:
        assert len(reservation.indices) == 10
        reader = Thread(target=lambda: found.append(fetch_patiently(kv, keys, PATIENCE_S)))
        reader.start()
        eventually(lambda: _waiting(client) or found)
        assert not found
        reservation.write(content(keys))
        assert reservation.seal() == 10
    reader.join()
    assert found == [10]


def fetch_patiently(kv: Namespace, keys: Any, wait_s: float) -> int:
    into = room(keys)
    blocks = kv.fetch(keys, into, wait_s=wait_s, deadline_s=PATIENCE_S).blocks
    assert np.array_equal(into[:blocks], content(keys[:blocks]))
    return blocks


def test_a_fetch_that_waits_hears_when_the_writer_gives_up(client: Client) -> None:
    kv = client.open(LAYOUT)
    keys = chain(2, 10)
    found: list[int] = []
    with kv.reserve(keys):
        reader = Thread(target=lambda: found.append(fetch_patiently(kv, keys, PATIENCE_S)))
        reader.start()
        eventually(lambda: _waiting(client))
    reader.join(PATIENCE_S)
    assert found == [0]


def test_a_deadline_ends_the_waiting(client: Client) -> None:
    kv = client.open(LAYOUT)
    publish(kv, chain(3, 4))
    keys = chain(3, 10)
    with kv.reserve(keys) as reservation:
        assert reservation.indices == tuple(range(4, 10))
        assert fetch(kv, keys) == 4
        assert fetch(kv, keys, wait_s=0.05) == 4
        fetched = kv.fetch(keys, room(keys), wait_s=600.0, deadline_s=0.05)
        assert (fetched.blocks, fetched.cut) in {(0, "deadline"), (4, "")}
    eventually(lambda: client.status().leases == client.status().waiting == 0)


def _compute_or_fetch(pipe: "Connection[Any, Any]", address: str) -> None:
    with connect(address) as client:
        kv = client.open(LAYOUT)
        pipe.send("ready")
        while (seed := pipe.recv()) is not None:
            keys = chain(seed, 10)
            into = room(keys)
            fetched, reservation = kv.fetch_and_reserve(
                keys, into, wait_s=PATIENCE_S, deadline_s=PATIENCE_S
            )
            with reservation:
                wrote = len(reservation.indices)
                if wrote:
                    reservation.write(content(keys))
                    reservation.seal()
            right = np.array_equal(into[: fetched.blocks], content(keys[: fetched.blocks]))
            pipe.send((wrote, fetched.blocks, right))


def test_of_two_that_ask_at_once_one_computes(shared_daemon: Daemon) -> None:
    address = shared_daemon.address
    with Peer(_compute_or_fetch, address) as one, Peer(_compute_or_fetch, address) as other:
        assert one.take() == other.take() == "ready"
        for seed in range(100, 120):
            one.go_on(seed)
            other.go_on(seed)
            got = sorted([one.take(), other.take()])
            assert got == [(0, 10, True), (10, 0, True)]


def _reserve_and_wait(pipe: "Connection[Any, Any]", address: str) -> None:
    kv = connect(address).open(LAYOUT)
    pipe.send(len(kv.reserve(chain(4, 10)).indices))
    pipe.recv()


def test_when_the_writer_dies_the_next_in_line_writes(shared_daemon: Daemon) -> None:
    with Peer(_reserve_and_wait, shared_daemon.address) as writer:
        assert writer.take() == 10
        with Peer(_compute_or_fetch, shared_daemon.address) as next_in_line:
            assert next_in_line.take() == "ready"
            next_in_line.go_on(4)
            with shared_daemon.client() as client:
                eventually(lambda: _waiting(client))
            writer.kill()
            assert next_in_line.take() == (10, 0, True)


# ---- views


def test_views_are_the_same_memory_and_cannot_be_written(client: Client) -> None:
    kv = client.open(ODD)
    keys = chain(1, 10, ODD)
    publish(kv, keys)
    with kv.fetch_views(keys) as one, kv.fetch_views(keys[:5]) as other:
        assert (len(one), len(other)) == (10, 5)
        assert [bytes(view) for view in one] == [row.tobytes() for row in content(keys, ODD)]
        assert one[3].readonly
        assert np.shares_memory(np.asarray(one[3]), np.asarray(other[3]))
        with pytest.raises(TypeError):
            one[3][0] = 0
        with pytest.raises(IndexError):
            one[10]
        assert one.valid()
        one.release()
        one.release()
        assert not len(one)
        assert other.valid()
    eventually(lambda: client.status().leases == 0)


def test_a_view_of_what_is_being_written_is_the_writers_memory(client: Client) -> None:
    kv = client.open(LAYOUT)
    keys = chain(5, 1)
    reservation = kv.reserve(keys)
    written = reservation.views[0]
    written[:] = content(keys).tobytes()
    assert reservation.seal() == 1
    with kv.fetch_views(keys) as views:
        assert np.shares_memory(np.asarray(written), np.asarray(views[0]))


def test_views_say_when_their_lease_is_over(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, leases__read_s=0.2)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        publish(kv, chain(1, 10))
        with kv.fetch_views(chain(1, 10)) as views:
            assert views.valid()
            eventually(lambda: not views.valid())
            assert client.status().leases == 0
        with kv.fetch_views(chain(1, 10)) as again:
            assert again.valid()
            assert not views.valid()


def test_views_of_a_session_that_was_cut_off_are_not_valid(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(leases__read_s=600.0)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        publish(kv, chain(1, 10))
        views = kv.fetch_views(chain(1, 10))
        daemon.stop()
        eventually(lambda: not views.valid())


def test_many_namespaces_share_the_tiers(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=1 * MiB)
    with daemon.client() as client:
        spaces = [client.open(layout) for layout in (LAYOUT, ODD)]
        for turn in range(12):
            for kv in spaces:
                keys = chain(turn, 30, kv.layout)
                assert kv.publish(keys, content(keys, kv.layout), wait_s=PATIENCE_S).blocks
                assert fetch(kv, keys) >= 1
        for kv in spaces:
            assert sum(fetch(kv, chain(turn, 30, kv.layout)) for turn in range(12)) > 100
        host = client.status().tiers[0]
        assert host.bytes_lent <= host.bytes_max


# ---- limits


def test_more_leases_than_a_session_may_hold_are_misses(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits__leases_per_session_max=4)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        keys = chain(1, 5)
        publish(kv, keys)
        held = []
        while len(views := kv.fetch_views(keys)):
            held.append(views)
        assert 1 < len(held) <= 4
        assert fetch(kv, keys) == 0
        assert all(views.valid() for views in held)
        for views in held:
            views.release()
        assert fetch(kv, keys) == 5


def test_more_sessions_than_there_may_be_are_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits__sessions_max=1)
    with daemon.client(), pytest.raises(DaemonUnreachable, match="sessions"):
        connect(daemon.address, wait_s=0.0)
    with daemon.client() as client:
        client.ping()
