"""More than the host tier holds: the rest is on disk, and comes back by either route."""

from collections.abc import Sequence
from time import monotonic

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, ODD, SHARDED, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, REGION_BYTES, eventually
from tierd.core.layouts import LayoutSpec
from tierd.core.units import MiB
from tierd_client import BlockKey, Client, Namespace

HOST_BLOCKS = 32
SMALL_HOST = HOST_BLOCKS * LAYOUT.block_bytes


def publish_all(kv: Namespace, keys: Sequence[BlockKey], within_s: float = PATIENCE_S) -> None:
    """Publish a chain of any length, a piece at a time, as an engine does."""
    until_s = monotonic() + within_s
    for stop in range(8, len(keys) + 8, 8):
        head = keys[:stop]
        source = content(head, kv.layout)
        # While the tier is full of what is still to be written, a part may be declined. And what
        # came before may be evicted meanwhile: then it is published again.
        while kv.publish(head, source, wait_s=0.1).declined:
            assert monotonic() < until_s, (stop, len(keys))


def all_on_disk(client: Client, blocks: int) -> None:
    """Return when so many blocks are on disk; they may be in memory too."""
    eventually(lambda: client.status().tiers[-1].blocks == blocks)


@pytest.mark.parametrize("layout", [LAYOUT, ODD], ids=["whole pages", "odd parts"])
def test_a_working_set_of_many_times_the_host_tier(
    start_daemon: StartDaemon, layout: LayoutSpec
) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=2 * SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(layout)
        chains = [chain(seed, 20, layout) for seed in range(20)]
        for keys in chains:
            publish_all(kv, keys)
        for keys in chains:
            assert fetch(kv, keys) == 20
        status = client.status()
    assert status.tiers[0].bytes_used <= 2 * SMALL_HOST
    assert status.namespaces[0].corrupt_blocks == 0
    assert {(route.source, route.target) for route in status.routes} == {
        ("disk", "host"),
        ("host", "disk"),
    }


def test_a_chain_longer_than_the_host_tier(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    keys = chain(1, 4 * HOST_BLOCKS)
    with daemon.client() as client:
        publish_all(client.open(LAYOUT), keys)
    daemon.stop()
    daemon.settings["tiers.host.bytes"] = SMALL_HOST
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        into = room(keys)
        fetched = kv.fetch(keys, into)
        assert fetched.blocks == fetched.by_tier["disk"] == len(keys), fetched
        assert np.array_equal(into, content(keys))
        assert {"disk-staged", "disk-direct"} == set(fetched.routes)
        with kv.fetch_views(keys) as views:
            assert len(views) == len(keys)
            assert b"".join(views) == content(keys).tobytes()


def test_a_chain_longer_than_the_host_tier_is_taken_in(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        keys = chain(1, 2 * HOST_BLOCKS)
        publish_all(kv, keys, within_s=2.0)
        assert fetch(kv, keys) == len(keys)


def test_with_no_free_slot_the_client_reads_from_disk_by_itself(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(ODD)
        slots = SMALL_HOST // REGION_BYTES * (REGION_BYTES // ODD.block_bytes)
        early, late = chain(1, slots, ODD), chain(2, slots, ODD)
        publish_all(kv, early)
        publish_all(kv, late)
        with kv.fetch_views(late) as held:
            assert len(held) == slots
            into = room(early, ODD)
            fetched = kv.fetch(early, into)
            assert fetched.blocks == slots
            assert np.array_equal(into, content(early, ODD))
            assert fetched.routes["disk-direct"].blocks == fetched.by_tier["disk"] == slots
            with kv.fetch_views(early) as views:
                assert b"".join(views) == content(early, ODD).tobytes()
            assert held.valid()
        assert "disk-staged" in kv.fetch(early, into, route="staged").routes
        assert np.array_equal(into, content(early, ODD))


def test_a_deadline_cuts_what_the_disk_has_not_brought(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        early, late = chain(1, HOST_BLOCKS), chain(2, HOST_BLOCKS)
        publish_all(kv, early)
        publish_all(kv, late)
        into = room(early)
        fetched = kv.fetch(early, into, deadline_s=0.0)
        assert (fetched.blocks, fetched.cut) == (0, "deadline")
        assert fetch(kv, early) == HOST_BLOCKS
        eventually(lambda: client.status().leases == 0)


# ---- hints


def test_pinned_blocks_stay_under_pressure(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        pinned = chain(0, 8)
        publish_all(kv, pinned)
        assert kv.pin(pinned, 600.0) == 8
        for seed in range(1, 9):
            publish_all(kv, chain(seed, 20))
        assert kv.match(pinned).by_tier == {"host": 8}
        assert kv.pin(chain(8, 20), 600.0) <= HOST_BLOCKS // 2 - 8, "there is a quota"
        assert fetch(kv, pinned) == 8


def test_an_ended_conversation_goes_first(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        older, ended = chain(1, 12), chain(2, 12)
        publish_all(kv, older)
        publish_all(kv, ended)
        kv.end_session(ended, shared=2)
        publish_all(kv, chain(3, 18))
        assert kv.match(older).blocks == 12
        assert kv.match(ended).blocks == 2


def test_prefetched_blocks_are_in_memory(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        keys = chain(1, 10)
        publish_all(kv, keys)
        kv.end_turn(keys)
        publish_all(kv, chain(2, HOST_BLOCKS))
        assert kv.match(keys).by_tier == {"disk": 10}
        all_on_disk(client, HOST_BLOCKS + 10)
        kv.prefetch(keys)
        eventually(lambda: kv.match(keys).by_tier == {"host": 10})
        assert fetch(kv, keys) == 10


@pytest.mark.parametrize("layout", [LAYOUT, ODD, SHARDED], ids=["whole pages", "odd", "shards"])
def test_a_caller_may_choose_the_route(start_daemon: StartDaemon, layout: LayoutSpec) -> None:
    daemon = start_daemon(16 * MiB)
    keys = chain(1, 40, layout)
    with daemon.client() as client:
        for part in range(layout.shards):
            publish(client.open(layout), keys, part)
    daemon.restart()
    with daemon.client() as client:
        kv = client.open(layout)
        for route, way in (
            ("direct", "disk-direct"),
            ("staged", "disk-staged"),
            ("direct", "host"),
        ):
            for part in range(layout.shards):
                into = room(keys, layout)
                fetched = kv.fetch(keys, into, part=part, route=route)  # type: ignore[arg-type]
                assert fetched.blocks == 40
                assert np.array_equal(into, content(keys, layout, part))
                if part == 0:
                    assert set(fetched.routes) == {way}
