"""Clients that die, fork, hang or come and go: the daemon gets everything back."""

import gc
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil

from tests.integration.blocks import LAYOUT, ODD, SHARDED, chain, content, fetch, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually, names_in_shared_memory
from tests.integration.peers import Peer
from tests.integration.test_spill import SMALL_HOST
from tierd.core.units import MiB
from tierd_client import connect

PROMPTLY_S = 5.0


def _hold(pipe: "Connection[Any, Any]", address: str, fork: bool) -> None:
    """Hold a lease and a reservation until the end; with `fork`, leave a child behind."""
    client = connect(address)
    kv = client.open(LAYOUT)
    publish(kv, chain(1, 10))
    views = kv.fetch_views(chain(1, 10))
    reservation = kv.reserve(chain(2, 10))
    child = os.fork() if fork else 0
    if fork and not child:
        pipe.recv()
        os._exit(0)
    pipe.send((len(views), len(reservation.indices), child))
    signal.pause()


def _used_blocks(daemon: Daemon) -> tuple[int, int]:
    status = daemon.status()
    return status.leases, status.tiers[0].bytes_used // LAYOUT.block_bytes


def test_what_a_killed_client_held_is_free_again(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with Peer(_hold, daemon.address, False) as peer:
        assert peer.take() == (10, 10, 0)
        assert _used_blocks(daemon) == (2, 20)
        peer.kill()
        eventually(lambda: _used_blocks(daemon) == (0, 10), within_s=PROMPTLY_S)


def test_a_forked_child_does_not_keep_what_its_killed_parent_held(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    with Peer(_hold, daemon.address, True) as peer:
        *held, child = peer.take()
        assert held == [10, 10]
        peer.kill()
        try:
            os.kill(child, 0)
            eventually(lambda: _used_blocks(daemon) == (0, 10), within_s=PROMPTLY_S)
        finally:
            os.kill(child, signal.SIGKILL)


def _fork_and_use(pipe: "Connection[Any, Any]", address: str) -> None:
    client = connect(address)
    kv = client.open(LAYOUT)
    keys = chain(1, 10)
    publish(kv, keys)
    views = kv.fetch_views(keys)
    if not os.fork():
        eventually(lambda: fetch(kv, keys) == 10)
        pipe.send(("child", publish(kv, chain(2, 10)), client.status().leases))
        client.close()
        os._exit(0)
    os.wait()
    pipe.send(("parent", fetch(kv, chain(2, 10)), views.valid()))
    pipe.recv()


def test_a_forked_child_uses_the_same_client(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with Peer(_fork_and_use, daemon.address) as peer:
        assert peer.take() == ("child", 10, 1)
        assert peer.take() == ("parent", 10, True)
        assert daemon.status().sessions == 2


def _write_late(pipe: "Connection[Any, Any]", address: str) -> None:
    client = connect(address)
    kv = client.open(LAYOUT)
    reservation = kv.reserve(chain(1, 10))
    views = reservation.views
    pipe.send(len(views))
    while not pipe.poll(0.01):
        for view in views:
            view[:] = b"\xff" * len(view)
    pipe.send(reservation.seal())
    pipe.recv()


def test_a_stopped_writer_never_writes_into_slots_of_others(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST, leases__write_s=0.3)
    with Peer(_write_late, daemon.address) as peer, daemon.client() as client:
        kv = client.open(LAYOUT)
        assert peer.take() == 10
        peer.stop()
        try:
            # Its lease runs out, yet of the 32 slots its 10 are not given to anybody else.
            eventually(lambda: kv.match(chain(1, 10)).blocks or publish(kv, chain(1, 1)) == 1)
            source = content(chain(2, 32))
            assert kv.publish(chain(2, 32), source).blocks == 22
            assert _bytes_used(daemon) == SMALL_HOST
        finally:
            peer.resume()
        peer.go_on()
        assert peer.take() == 0, "sealing is refused"
        assert fetch(kv, chain(2, 32)) == 22
        # It has said that it writes no more: the slots are free.
        eventually(lambda: _bytes_used(daemon) == 22 * LAYOUT.block_bytes)
        assert publish(kv, chain(2, 32)) == 10
        assert fetch(kv, chain(2, 32)) == 32


def test_a_stopped_writer_that_dies_gives_its_slots_back(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST, leases__write_s=0.3)
    with Peer(_write_late, daemon.address) as peer, daemon.client() as client:
        kv = client.open(LAYOUT)
        assert peer.take() == 10
        peer.stop()
        eventually(lambda: publish(kv, chain(1, 1)) == 1)
        peer.kill()
        eventually(lambda: _bytes_used(daemon) == LAYOUT.block_bytes, within_s=PROMPTLY_S)
        assert publish(kv, chain(1, 32)) == 31


def _held(daemon: Daemon) -> tuple[int, int]:
    """Return how many sessions there are, with the one that asks, and how many leases."""
    status = daemon.status()
    return status.sessions, status.leases


def _bytes_used(daemon: Daemon) -> int:
    return daemon.status().tiers[0].bytes_used


def _come_and_go(address: str, tcp: str, turns: int) -> None:
    for turn in range(turns):
        with connect(address) as client, connect(tcp) as remote:
            for layout in (LAYOUT, ODD, SHARDED):
                kv = client.open(layout)
                publish(kv, chain(turn, 3, layout))
                fetch(kv, chain(turn, 3, layout))
                kv.fetch_views(chain(turn, 3, layout))
                kv.reserve(chain(turn + 1000, 3, layout))
                assert fetch(remote.open(layout), chain(turn, 1, layout)) <= 1


def test_clients_that_come_and_go_leave_nothing_behind(start_daemon: StartDaemon) -> None:
    names = names_in_shared_memory()
    daemon = start_daemon(16 * MiB, listen__tcp="127.0.0.1:0")
    processes = [psutil.Process(daemon.pid), psutil.Process()]

    def counts() -> list[int]:
        gc.collect()
        return [count for p in processes for count in (p.num_fds(), p.num_threads())]

    _come_and_go(daemon.address, daemon.tcp, 4)
    before = np.array(counts())
    _come_and_go(daemon.address, daemon.tcp, 12)
    eventually(lambda: (np.array(counts()) <= before + 2).all())
    # The daemon hears of the end of a connection by itself, a little after it.
    eventually(lambda: _held(daemon) == (1, 0))
    daemon.stop()
    assert names_in_shared_memory() <= names
    assert not (daemon.directory / "t.sock").exists()
    assert not (daemon.directory / "t.sock.fds").exists()


def _lose_the_stream(pipe: "Connection[Any, Any]", address: str) -> None:
    client = connect(address)
    kv = client.open(LAYOUT)
    reservation = kv.reserve(chain(1, 10))
    views = kv.fetch_views(chain(2, 2))
    lost = client.connection()
    assert lost is not None
    lost.stream.close()
    eventually(lambda: client.connection() not in (None, lost))
    pipe.send((len(reservation.indices), len(views), views.valid()))
    pipe.recv()
    reservation.write(np.full((10, LAYOUT.part_bytes), 0xFF, np.uint8))
    pipe.send(reservation.seal())
    pipe.recv()


def test_a_writer_that_lost_its_stream_never_writes_into_slots_of_others(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client, Peer(_lose_the_stream, daemon.address) as peer:
        kv = client.open(LAYOUT)
        publish(kv, chain(2, 2))
        peer_has = peer.take()
        assert peer_has == (10, 2, False)
        assert kv.publish(chain(3, 32), content(chain(3, 32))).blocks == 22
        peer.go_on()
        assert peer.take() == 0
        assert fetch(kv, chain(3, 32)) == 22
        eventually(lambda: publish(kv, chain(3, 32)) == 10, within_s=PROMPTLY_S)
        assert fetch(kv, chain(3, 32)) == 32
