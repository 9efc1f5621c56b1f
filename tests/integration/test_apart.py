"""Blocks that no chain leads to, many in one message: from memory, from disk, after a restart."""

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, SHARDED, chain, content, fetch, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon
from tierd.core.errors import InvalidRequest
from tierd.core.units import MiB
from tierd_client import Apart, BlockKey, Client, LayoutSpec, Namespace
from tierd_client.splitting import Route


def keys_of(seed: int, blocks: int, layout: LayoutSpec = LAYOUT) -> Apart:
    """Return keys that are no chain: the first ones of as many chains."""
    return Apart(chain(seed * 1000 + place, 1, layout)[0] for place in range(blocks))


def backwards(keys: Apart) -> Apart:
    return keys[::-1]


def publish(kv: Namespace, keys: Apart) -> int:
    return kv.publish(keys, content(keys, kv.layout), wait_s=PATIENCE_S).blocks


def test_each_is_found_in_any_order(client: Client) -> None:
    kv, keys = client.open(LAYOUT), keys_of(1, 40)
    assert kv.match(keys).blocks == 0
    assert publish(kv, keys) == 40
    assert fetch(kv, backwards(keys)) == 40
    assert fetch(kv, [keys[7]]) == 1, "each is a chain of one"
    assert fetch(kv, list(keys)) == 1, "but all are no chain"
    into = room(keys[10:])
    assert kv.fetch(keys, into, first=10).blocks == 30
    assert np.array_equal(into, content(keys[10:]))
    with kv.fetch_views(backwards(keys)) as views:
        assert np.array_equal(np.stack(list(views)), content(backwards(keys)))
        assert views.valid()


def test_what_is_missing_ends_a_fetch_but_not_a_publish(client: Client) -> None:
    kv, keys = client.open(LAYOUT), keys_of(2, 10)
    assert publish(kv, keys[:4]) == 4
    assert publish(kv, keys[6:]) == 4
    matched = kv.match(keys)
    assert (matched.blocks, matched.further) == (4, (6, 7, 8, 9))
    assert fetch(kv, keys) == 4
    published = kv.publish(keys, content(keys))
    assert (published.blocks, published.held, published.declined) == (2, 8, 0)
    assert fetch(kv, keys) == 10


def test_a_hold_keeps_those_that_lead(client: Client) -> None:
    kv, keys = client.open(LAYOUT), keys_of(3, 4)
    assert publish(kv, keys[:2]) == 2
    with kv.hold(keys) as held:
        assert held.blocks == 2


def test_who_misses_reserves_in_the_same_step(client: Client) -> None:
    kv, keys = client.open(LAYOUT), keys_of(4, 6)
    assert publish(kv, keys[2:4]) == 2
    fetched, reservation = kv.fetch_and_reserve(keys, room(keys))
    assert fetched.blocks == 0
    assert reservation.indices == (0, 1, 4, 5)
    reservation.write(content(keys))
    assert reservation.seal() == 4
    assert fetch(kv, keys) == 6


def test_parts_are_joined(client: Client) -> None:
    kv, keys = client.open(SHARDED), keys_of(5, 8, SHARDED)
    for part in (0, 1):
        assert kv.match(keys).blocks == 0
        kv.publish(keys, content(keys, SHARDED, part), part=part, wait_s=PATIENCE_S)
    assert [fetch(kv, backwards(keys), part=part) for part in (0, 1)] == [8, 8]


def test_over_the_network(client: Client, shared_daemon: Daemon) -> None:
    keys = keys_of(6, 12)
    with shared_daemon.client(shared_daemon.tcp) as remote:
        far, near = remote.open(LAYOUT), client.open(LAYOUT)
        assert publish(far, keys) == 12
        assert fetch(near, backwards(keys)) == 12
        assert fetch(far, backwards(keys)) == 12


def test_what_is_about_chains_refuses_them(client: Client) -> None:
    kv, keys = client.open(LAYOUT), keys_of(7, 2)
    with pytest.raises(InvalidRequest, match="first is 1: leave out keys apart"):
        kv.publish(keys, content(keys), first=1)
    for call in (kv.prefetch, kv.end_turn, kv.end_session, lambda each: kv.pin(each, 1.0)):
        with pytest.raises(InvalidRequest, match="chain is Apart: give a chain"):
            call(keys)


@pytest.mark.parametrize("route", ["staged", "direct", "auto"])
def test_a_restart_finds_them_beside_chains(start_daemon: StartDaemon, route: Route) -> None:
    daemon = start_daemon(16 * MiB)
    keys, whole = keys_of(8, 100), chain(9, 50)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert publish(kv, keys) == 100
        assert kv.publish(whole, content(whole), wait_s=PATIENCE_S).blocks == 50
        assert kv.persist(keys, PATIENCE_S) == 100
        assert kv.persist(whole, PATIENCE_S) == 50
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert kv.match(keys).by_tier == {"disk": 100}
        into = room(keys)
        assert kv.fetch(backwards(keys), into, route=route).by_tier == {"disk": 100}
        assert np.array_equal(into, content(backwards(keys)))
        assert fetch(kv, whole) == 50
        first: list[BlockKey] = [whole[0], keys[3]]
        assert fetch(kv, Apart(first)) == 2, "the first of a chain hangs on the root, too"
        assert kv.match(Apart(whole)).blocks == 1
