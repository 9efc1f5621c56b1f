"""A daemon that stops, crashes and comes back, and clients that live through it."""

import gc
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, ODD, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, eventually, serve_command
from tests.integration.test_spill import SMALL_HOST
from tierd.core.units import MiB
from tierd_client import Namespace


def test_after_a_stop_everything_published_is_found_on_disk(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for seed in range(10):
            assert publish(kv, chain(seed, 50)) == 50  # the last of these are still to be written
    daemon.restart()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for seed in range(10):
            assert kv.match(chain(seed, 50)).by_tier == {"disk": 50}
            assert fetch(kv, chain(seed, 50)) == 50


def test_two_directories_hold_half_each(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    daemon.stop()
    places = [daemon.directory / "one", daemon.directory / "two"]
    daemon.settings["tiers.disk.directories"] = ",".join(map(str, places))
    daemon.start()
    keys = chain(1, 200)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), keys) == 200
    daemon.restart()
    assert all(len(list(place.glob("*.segment"))) >= 6 for place in places)
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), keys) == 200


def test_after_a_crash_what_was_on_disk_is_found(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert publish(kv, chain(1, 50)) == 50
        eventually(lambda: client.status().tiers[1].blocks == 50)
        for seed in range(2, 10):
            assert publish(kv, chain(seed, 50)) == 50
        daemon.kill()
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert fetch(kv, chain(1, 50)) == 50
        for seed in range(2, 10):
            found = kv.match(chain(seed, 50)).blocks
            assert fetch(kv, chain(seed, 50)) == found
        assert client.status().namespaces[0].corrupt_blocks == 0


def test_a_crash_under_load_corrupts_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(1 * MiB, tiers__host__bytes=SMALL_HOST)
    for _ in range(2):
        with daemon.client() as client:
            kv = client.open(LAYOUT)
            for seed in range(20):
                publish(kv, chain(seed, 20))
            daemon.kill()
        daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        # A record may be older than what is in its slot: then the block is a miss.
        assert sum(fetch(kv, chain(seed, 20)) for seed in range(20)) > 0


def test_a_second_daemon_on_the_socket_is_refused(start_daemon: StartDaemon) -> None:
    """Of directories `tests/lessons/test_restarts.py` says the same."""
    daemon = start_daemon(16 * MiB)
    settings = {**daemon.settings, "tiers.disk.directories": daemon.directory / "other"}
    second = subprocess.run(
        serve_command(settings), capture_output=True, timeout=PATIENCE_S, text=True, check=False
    )
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert "is in use by" in " ".join(second.stderr.split()), second.stderr
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), chain(1, 5)) == 5, "the first is not disturbed"


def test_a_client_lives_through_a_restart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        keys = chain(1, 20)
        publish(kv, keys)
        views = kv.fetch_views(keys)
        reservation = kv.reserve(chain(2, 5))
        daemon.stop()
        eventually(lambda: client.tiers == ())
        fetched = kv.fetch(keys, room(keys))
        assert (fetched.blocks, fetched.cut) == (0, "daemon away")
        assert kv.match(keys).blocks == 0
        assert kv.publish(keys, content(keys)).blocks == 0
        assert len(kv.fetch_views(keys)) == 0
        assert kv.pin(keys, 1.0) == 0
        kv.prefetch(keys)
        assert not views.valid()
        reservation.write(content(chain(2, 5)))
        assert reservation.seal() == 0
        daemon.start()
        eventually(lambda: client.tiers)
        assert fetch(kv, keys) == 20
        assert publish(kv, chain(2, 5)) == 5
        views.release()
        assert client.status().leases == 0


def test_a_client_that_is_back_has_its_namespaces_open(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with daemon.client() as client:
        client.open(LAYOUT, "mine")
        daemon.kill()
        client.open(ODD, "while it is away")
        eventually(lambda: not client.tiers)
        daemon.start()
        eventually(lambda: client.tiers)
        names = {space.name for space in client.status().namespaces}
    assert names == {"mine", "while it is away"}


def test_a_namespace_opened_while_the_daemon_is_away(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with daemon.client() as client:
        daemon.stop()
        eventually(lambda: client.tiers == ())
        kv = client.open(LAYOUT)
        daemon.start()
        eventually(lambda: publish(kv, chain(1, 5)) == 5)


def _hammer(kv: Namespace, over: Event, hits: list[int], thread: int) -> None:
    turn = 0
    while not over.is_set():
        turn += 1
        keys = chain(thread % 3 * 100 + turn % 7, 12)
        found = fetch(kv, keys)
        if not found and not publish(kv, keys):
            over.wait(0.01)
        hits[thread] += found
        with kv.fetch_views(keys) as views:
            held = [bytes(view) for view in views]
            if views.valid():
                assert b"".join(held) == content(keys[: len(held)]).tobytes()
        into = room(keys)
        fetched, reservation = kv.fetch_and_reserve(keys, into, wait_s=0.01)
        with reservation:
            assert np.array_equal(into[: fetched.blocks], content(keys[: fetched.blocks]))
        kv.match(keys)


@pytest.mark.parametrize("end", [Daemon.stop, Daemon.kill], ids=["stop", "kill"])
@pytest.mark.parametrize("far", [False, True], ids=["here", "far"])
def test_many_threads_notice_a_restart_only_by_misses(
    start_daemon: StartDaemon, end: Callable[[Daemon], None], far: bool
) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=2 * SMALL_HOST, listen__tcp="127.0.0.1:0")
    daemon.settings["listen.tcp"] = daemon.tcp
    over = Event()
    address = daemon.tcp if far else daemon.address
    with daemon.client(address) as client, ThreadPoolExecutor(4) as threads:
        kv = client.open(LAYOUT)
        hits = [0] * 4
        running = [threads.submit(_hammer, kv, over, hits, n) for n in range(4)]
        try:
            for _ in range(2):
                _wait_for_hits(hits, running)
                end(daemon)
                daemon.start()
            _wait_for_hits(hits, running)
        finally:
            over.set()
        for done in running:
            done.result(PATIENCE_S)
        eventually(lambda: client.status().leases == 0)


def _wait_for_hits(hits: list[int], running: list[Future[None]]) -> None:
    """Return when every thread has had some more hits, or one has failed."""
    before = list(hits)

    def enough() -> bool:
        return all(now > then + 30 for now, then in zip(hits, before, strict=True))

    eventually(lambda: enough() or any(done.done() for done in running))


# ---- damage on disk


def _damage(segments: list[Path], lost: bytes) -> None:
    """Change one byte of the block whose bytes are `lost`."""
    for path in segments:
        held = bytearray(path.read_bytes())
        at = held.find(lost)
        if at >= 0:
            held[at + len(lost) // 2] ^= 1
            path.write_bytes(held)
            return
    raise AssertionError("the block is in no segment")


@pytest.mark.parametrize("route", ["disk-staged", "disk-direct"])
def test_a_damaged_block_is_a_miss(start_daemon: StartDaemon, route: str) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    keys = chain(1, 20)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), keys) == 20
    daemon.stop()
    _damage(daemon.segments(), content(keys)[12].tobytes())
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        held = kv.reserve(chain(2, 32 if route == "disk-direct" else 1))
        into = room(keys)
        fetched = kv.fetch(keys, into)
        assert (fetched.blocks, fetched.cut) == (12, "read failed")
        assert list(fetched.routes) == [route]
        assert np.array_equal(into[:12], content(keys)[:12])
        eventually(lambda: client.status().namespaces[0].corrupt_blocks == 1)
        assert kv.match(keys).blocks == 12
        held.abort()
        assert publish(kv, keys) >= 1, "it is written anew"
        assert fetch(kv, keys) == 20
        hit_and_missed = client.status().namespaces[0]
        hits = sum(hit_and_missed.tokens_hit)
        assert hit_and_missed.tokens_asked == hits + hit_and_missed.tokens_missed


def test_a_damaged_segment_header_loses_only_its_blocks(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), chain(1, 40)) == 40
    daemon.stop()
    segment = daemon.segments()[-1]
    held = bytearray(segment.read_bytes())
    held[20] ^= 1
    segment.write_bytes(held)
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert fetch(kv, chain(1, 40)) < 40
        publish(kv, chain(1, 40))
        assert fetch(kv, chain(1, 40)) == 40


def test_a_daemon_that_hangs_costs_no_more_than_the_deadline(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(listen__tcp="127.0.0.1:0")
    keys = chain(1, 10)
    with daemon.client() as client, daemon.client(daemon.tcp) as remote:
        spaces = [client.open(LAYOUT), remote.open(LAYOUT)]
        publish(spaces[0], keys)
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            for kv in spaces:
                fetched = kv.fetch(keys, room(keys), deadline_s=0.05)
                assert (fetched.blocks, fetched.cut) == (0, "deadline")
                assert len(kv.fetch_views(keys, deadline_s=0.05)) == 0
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        for kv in spaces:
            eventually(lambda: fetch(kv, keys) == 10)  # noqa: B023
        eventually(lambda: client.status().leases == 0)


@pytest.mark.parametrize("end", [Daemon.stop, Daemon.kill])
def test_memory_of_a_daemon_that_is_gone_is_let_go_without_a_collector(
    start_daemon: StartDaemon, end: Callable[[Daemon], None]
) -> None:
    """Engines hardly ever collect cycles: each restart would cost them the host tier's memory."""
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        keys = chain(1, 50)
        publish(kv, keys)
        gc.collect()
        gc.disable()
        try:
            known = mappings()
            for _ in range(3):
                assert kv.persist(keys) == 50
                end(daemon)
                daemon.start()
                eventually(lambda: fetch(kv, keys) == 50)
            eventually(lambda: mappings() <= known)
        finally:
            gc.enable()


def mappings() -> int:
    """Return how many pieces of daemons' memory this process maps."""
    return Path("/proc/self/maps").read_text().count("memfd")
