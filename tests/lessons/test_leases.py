"""Lessons 8, 13, 17, 23: nothing is held for ever, and everything that is asked is answered."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from random import Random
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, eventually
from tests.integration.peers import Peer
from tests.integration.test_spill import HOST_BLOCKS, SMALL_HOST
from tests.lessons.test_damage_trial import ROUTES, right
from tierd.core.units import KiB, MiB
from tierd_client import Namespace, connect
from tierd_client.splitting import Route

KEYS = chain(1, 40)


def _hold_everything(pipe: "Connection[Any, Any]", address: str) -> None:
    views = connect(address).open(LAYOUT).fetch_views(chain(1, HOST_BLOCKS))
    pipe.send(len(views))
    signal.pause()


def _leases(daemon: Daemon) -> int:
    return daemon.status().leases


@pytest.mark.parametrize("end", [Peer.kill, Peer.stop], ids=["dies", "hangs"])
def test_lesson_08_what_is_held_by_nobody_is_given_back(
    start_daemon: StartDaemon, end: Callable[[Peer], None]
) -> None:
    """LMCache#1034, #987, #1046, #2004: lookups pinned blocks, requests that ended otherwise never
    unpinned them, and in the end the cache was full of what nobody used.

    One client holds all there is, and then dies, or hangs until its lease is over.
    """
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST, leases__read_s=2.0)
    with daemon.client() as client, Peer(_hold_everything, daemon.address) as peer:
        kv = client.open(LAYOUT)
        assert publish(kv, chain(1, HOST_BLOCKS)) == HOST_BLOCKS
        assert peer.take() == HOST_BLOCKS
        assert _leases(daemon) == 1
        assert kv.publish(chain(2, 8), content(chain(2, 8))).declined == 8, "all is held"
        end(peer)
        eventually(lambda: publish(kv, chain(2, 8)) == 8)
        assert _leases(daemon) == 0


def test_lesson_08_a_release_counts_once(start_daemon: StartDaemon) -> None:
    """LMCache#3381: a second unpin of the same lookup took another reader's pin away."""
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        held = chain(1, HOST_BLOCKS)
        publish(kv, held)
        mine, other = kv.fetch_views(held), kv.fetch_views(held)
        mine.release()
        mine.release()
        eventually(lambda: _leases(daemon) == 1)
        assert kv.publish(chain(2, 8), content(chain(2, 8))).blocks == 0
        assert other.valid()
        assert b"".join(other) == content(held).tobytes()
        other.release()
        eventually(lambda: publish(kv, chain(2, 8)) == 8)


def _on_slow_disk(daemon: Daemon, bytes_per_s: int) -> None:
    """Publish `KEYS`, and have the daemon read them from disk no faster than that."""
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), KEYS) == 40
    daemon.stop()
    daemon.options = [f"--throttle-disk={bytes_per_s}"]
    daemon.start()


@pytest.mark.parametrize("far", [False, True], ids=["here", "far"])
def test_lesson_13_a_large_fetch_ends_at_its_deadline(
    start_daemon: StartDaemon,
    far: bool,
) -> None:
    """LMCache#4759: the retrieval of a long prompt never came back, and the engine waited silently
    for ever instead of computing it.

    This disk needs three minutes for the chain. What is in memory is served meanwhile, and after
    that, too.
    """
    daemon = start_daemon(16 * MiB, listen__tcp="127.0.0.1:0", tiers__disk__stall_s=600.0)
    daemon.settings["listen.tcp"] = daemon.tcp
    _on_slow_disk(daemon, 1 * KiB)
    with daemon.client(daemon.tcp if far else daemon.address) as client:
        kv = client.open(LAYOUT)
        assert kv.match(KEYS).by_tier == {"disk": 40}
        into = room(KEYS)
        fetched = kv.fetch(KEYS, into, deadline_s=0.3, route="staged")
        assert fetched.cut == "deadline"
        assert np.array_equal(into[: fetched.blocks], content(KEYS[: fetched.blocks]))
        publish(kv, chain(2, 10))
        assert fetch(kv, chain(2, 10)) == 10
        eventually(lambda: client.status().leases == 0)
    daemon.kill()


@pytest.mark.parametrize("route", ROUTES)
def test_lesson_17_what_was_found_bad_is_not_tried_again(
    start_daemon: StartDaemon, route: Route
) -> None:
    """sglang#31315: a hit whose data were gone timed out, and was a hit again for the next request,
    and the next.

    The segment's file is gone: of a thousand hits the first is told apart from a miss.
    """
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), KEYS) == 40
    daemon.restart()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert kv.match(KEYS).blocks == 40
        for path in daemon.segments():
            os.truncate(path, 0)
        assert right(kv, KEYS, route) == 0
        eventually(lambda: kv.match(KEYS).blocks == 0)
        found = client.status().namespaces[0].corrupt_blocks
        assert found >= 1
        for _ in range(3):
            fetched = kv.fetch(KEYS, room(KEYS), route=route)
            assert (fetched.blocks, fetched.cut) == (0, ""), "an ordinary miss"
        assert client.status().namespaces[0].corrupt_blocks == found
        status = client.status().namespaces[0]
        assert status.tokens_asked == sum(status.tokens_hit) + status.tokens_missed
        assert not sum(status.tokens_hit), "what did not come was no hit"


def test_lesson_17_a_lease_lasts_as_long_as_its_transfer(start_daemon: StartDaemon) -> None:
    """Mooncake#3076: a transfer took longer than the lease of ten seconds, and 6,722 keys failed
    with LEASE_EXPIRED, although nothing had been wrong with any."""
    daemon = start_daemon(16 * MiB, leases__read_s=0.3)
    _on_slow_disk(daemon, 128 * KiB)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        into = room(KEYS)
        fetched = kv.fetch(KEYS, into, deadline_s=PATIENCE_S, route="staged")
        assert (fetched.blocks, fetched.cut) == (40, "")
        assert np.array_equal(into, content(KEYS))


# ---- races


def _load_and_store(kv: Namespace, seed: int, over: Event) -> int:
    """Fetch what others publish into the same few slots, and publish what is missing."""
    rng = Random(seed)
    calls = 0
    while calls < 60 and not over.is_set():
        keys = chain(rng.randrange(6), 12)
        into = room(keys)
        fetched, reservation = kv.fetch_and_reserve(keys, into, wait_s=0.02, deadline_s=PATIENCE_S)
        with reservation:
            assert np.array_equal(into[: fetched.blocks], content(keys[: fetched.blocks]))
            if reservation.indices and rng.random() < 0.8:
                reservation.write(content(keys))
                reservation.seal()
        with kv.fetch_views(keys) as views:
            held = b"".join(bytes(view) for view in views)
            if views.valid():
                assert held == content(keys[: len(views)]).tobytes()
        calls += 1
    return calls


def test_lesson_23_loads_and_stores_of_the_same_slots(start_daemon: StartDaemon) -> None:
    """vLLM#45704, #47282, #46951: a load and a store of one block ran on two streams, and either
    saw half of the other's; and #45388, #57104, #35943: requests that waited for KV which nobody
    brought were never told so, and were stuck.

    Here a slot is visible once its bytes are, and a reader learns when they changed under it; and
    every call of every thread comes back.
    """
    daemon = start_daemon(1 * MiB, tiers__host__bytes=SMALL_HOST)
    over = Event()
    with daemon.client() as client, ThreadPoolExecutor(4) as threads:
        kv = client.open(LAYOUT)
        running = [threads.submit(_load_and_store, kv, seed, over) for seed in range(4)]
        try:
            assert [each.result(2 * PATIENCE_S) for each in running] == [60] * 4
        finally:
            over.set()
        status = client.status()
        assert status.tiers[0].evictions > 0, "there was room for all"
        assert status.namespaces[0].corrupt_blocks == 0
        eventually(lambda: (client.status().leases, client.status().waiting) == (0, 0))


def _reserve_all(pipe: "Connection[Any, Any]", address: str) -> None:
    kv = connect(address).open(LAYOUT)
    pipe.send(len(kv.reserve(KEYS).indices))
    pipe.recv()


@pytest.mark.parametrize("end", ["writer dies", "daemon stops", "daemon dies"])
def test_lesson_23_who_waits_is_told_however_it_ends(start_daemon: StartDaemon, end: str) -> None:
    """The same in vLLM#57104 and #35943, WAITING_FOR_REMOTE_KVS: whoever was to write is gone."""
    daemon = start_daemon(16 * MiB)
    with (
        daemon.client() as client,
        Peer(_reserve_all, daemon.address) as writer,
        ThreadPoolExecutor(3) as threads,
    ):
        kv = client.open(LAYOUT)
        assert writer.take() == 40

        def wait_for_it() -> int:
            return kv.fetch(KEYS, room(KEYS), wait_s=600.0, deadline_s=600.0).blocks

        waiting = [threads.submit(wait_for_it) for _ in range(3)]
        eventually(lambda: client.status().waiting == 3)
        {"writer dies": writer.kill, "daemon stops": daemon.stop, "daemon dies": daemon.kill}[end]()
        assert [each.result(PATIENCE_S) for each in waiting] == [0, 0, 0]
