"""A tool whose time is known: what its agent waits with is in memory when it is nearly over."""

from collections.abc import Iterator
from math import inf, nan

import pytest

from tests.integration.blocks import LAYOUT, chain, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.test_spill import all_on_disk
from tierd.core.units import MiB
from tierd_client import Client, InvalidRequest, Namespace

BLOCKS = 10
CHAINS = [chain(seed, BLOCKS) for seed in range(5)]
IN_MEMORY, ON_DISK = {"host": BLOCKS}, {"disk": BLOCKS}


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """Return a daemon that has the chains on disk, and nothing in memory."""
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        for keys in CHAINS:
            publish(client.open(LAYOUT), keys)
        all_on_disk(client, len(CHAINS) * BLOCKS)
    daemon.restart()
    return daemon


@pytest.fixture
def watcher(daemon: Daemon) -> Iterator[Namespace]:
    """A client that only looks."""
    with daemon.client() as client:
        yield client.open(LAYOUT)


def test_blocks_are_in_memory_when_a_tool_is_nearly_over(
    daemon: Daemon, watcher: Namespace
) -> None:
    soon, long, *others = CHAINS
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        kv.end_turn(long, waits_for="tool", expected_s=600)
        kv.end_turn(soon, waits_for="tool", expected_s=1.3)
        eventually(lambda: watcher.match(soon).by_tier == IN_MEMORY)
        assert all(watcher.match(keys).by_tier == ON_DISK for keys in [long, *others])


def test_who_is_back_or_gone_before_has_nothing_brought(daemon: Daemon, watcher: Namespace) -> None:
    fetched, paused, ended, left, last = CHAINS
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        with daemon.client() as leaving:
            leaving.open(LAYOUT).end_turn(left, waits_for="tool", expected_s=4)
            for keys in (fetched, paused, ended):
                kv.end_turn(keys, waits_for="tool", expected_s=4)
        # Past the daemon's memory: what is there afterwards was brought by itself.
        assert kv.fetch(fetched, room(fetched), route="direct").by_tier == ON_DISK
        kv.end_turn(paused)
        kv.end_session(ended)
        kv.end_turn(last, waits_for="tool", expected_s=4)
        # Due after the others, had they been due.
        eventually(lambda: watcher.match(last).by_tier == IN_MEMORY)
    tiers = [watcher.match(keys).by_tier for keys in (fetched, paused, ended, left)]
    assert tiers == [ON_DISK] * 4


@pytest.mark.parametrize("expected_s", [-1, nan, inf, -inf, 24 * 3600 + 0.5, 1e300])
def test_what_no_pause_can_last_is_refused_by_name(client: Client, expected_s: float) -> None:
    kv = client.open(LAYOUT)
    with pytest.raises(InvalidRequest) as refused:
        kv.end_turn(CHAINS[0], expected_s=expected_s)
    assert str(refused.value).startswith(f"expected_s is {expected_s}: give 0 to 86400 seconds")
