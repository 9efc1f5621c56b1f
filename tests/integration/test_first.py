"""Fetches that begin after what the caller has, and chains held while others fetch them."""

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, SHARDED, chain, content, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import eventually
from tierd.core.units import KiB, MiB
from tierd_client import Client, InvalidRequest, connect

SMALL_HOST = 256 * KiB


@pytest.mark.parametrize("first", [0, 1, 7, 19, 20])
def test_only_what_follows_is_brought(client: Client, first: int) -> None:
    kv = client.open(LAYOUT)
    keys = chain(1, 20)
    publish(kv, keys)
    into = np.zeros((20 - first, LAYOUT.part_bytes), np.uint8)
    fetched = kv.fetch(keys, into, first=first)
    assert fetched.blocks == sum(fetched.by_tier.values()) == 20 - first
    assert np.array_equal(into, content(keys)[first:])
    with kv.fetch_views(keys, first=first) as views:
        assert b"".join(views) == content(keys)[first:].tobytes()
    layered = np.zeros_like(into)
    with kv.fetch_layers(keys, layered, first=first) as arriving:
        assert arriving.blocks == 20 - first
        list(arriving.layers())
    assert np.array_equal(layered, into)


def test_parts_of_what_follows(client: Client) -> None:
    kv = client.open(SHARDED)
    keys = chain(2, 6, SHARDED)
    for part in (0, 1):
        publish(kv, keys, part)
    into = np.zeros((4, SHARDED.part_bytes), np.uint8)
    assert kv.fetch(keys, into, first=2, part=1).blocks == 4
    assert np.array_equal(into, content(keys, SHARDED, 1)[2:])


@pytest.mark.parametrize("route", ["auto", "direct", "staged"])
def test_what_follows_comes_from_disk(start_daemon: StartDaemon, route: str) -> None:
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        keys = chain(3, 40)
        publish(kv, keys)
        kv.persist(keys, 10.0)
        publish(kv, chain(4, 60))
        into = np.zeros((25, LAYOUT.part_bytes), np.uint8)
        fetched = kv.fetch(keys, into, first=15, route=route)  # type: ignore[arg-type]
        assert fetched.blocks == 25
        assert np.array_equal(into, content(keys)[15:])
        layered = np.zeros_like(into)
        with kv.fetch_layers(keys, layered, first=15) as arriving:
            list(arriving.layers())
        assert np.array_equal(layered, into)


def test_what_follows_comes_over_the_network(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(listen__tcp="127.0.0.1:0")
    keys = chain(5, 9)
    with daemon.client() as client, connect(daemon.tcp) as remote:
        publish(client.open(LAYOUT), keys)
        into = np.zeros((5, LAYOUT.part_bytes), np.uint8)
        assert remote.open(LAYOUT).fetch(keys, into, first=4).blocks == 5
        assert np.array_equal(into, content(keys)[4:])


@pytest.mark.parametrize("first", [-1, 4])
def test_a_first_that_cannot_be_is_refused(client: Client, first: int) -> None:
    kv = client.open(LAYOUT)
    with pytest.raises(InvalidRequest, match="first"):
        kv.fetch(chain(6, 3), bytearray(4 * LAYOUT.part_bytes), first=first)


def test_what_is_held_stays_until_it_is_released(start_daemon: StartDaemon) -> None:
    """The engine's scheduler holds, its worker fetches; meanwhile others publish a lot."""
    daemon = start_daemon(tiers__host__bytes=SMALL_HOST)
    with daemon.client() as scheduler, daemon.client() as worker:
        kv, keys = scheduler.open(LAYOUT), chain(7, 20)
        publish(kv, keys)
        with kv.hold([*keys, *chain(8, 3)]) as held:
            assert (held.blocks, held.by_tier) == (20, {"host": 20})
            other = chain(9, 60)
            assert worker.open(LAYOUT).publish(other, content(other)).blocks < 60
            into = np.zeros((20, LAYOUT.part_bytes), np.uint8)
            assert worker.open(LAYOUT).fetch(keys, into).blocks == 20
        eventually(lambda: daemon.status().leases == 0)
        publish(kv, chain(10, 60))
        assert kv.match(keys).blocks < 20


def test_a_hold_is_renewed_while_it_is_wanted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(leases__read_s=0.3)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        publish(kv, chain(11, 3))
        held, forgotten = kv.hold(chain(11, 3)), kv.hold(chain(11, 3))
        assert forgotten.blocks == 3
        seen = []

        def two_terms_passed() -> bool:
            held.renew()
            seen.append(client.status().leases)
            return len(seen) > 20 and seen[-1] == 1

        eventually(two_terms_passed)
        assert client.status().leases == 1
        held.release()
        held.release()
        eventually(lambda: client.status().leases == 0)


def test_nothing_is_held_while_the_daemon_is_away(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        publish(kv, chain(12, 3))
        held = kv.hold(chain(12, 3))
        daemon.kill()
        eventually(lambda: not client.tiers)
        assert kv.hold(chain(12, 3)).blocks == 0
        held.renew()
        held.release()
