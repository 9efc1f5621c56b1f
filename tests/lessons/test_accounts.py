"""Lessons 9 and 18: what is counted is what is there, and no more is evicted than needed."""

import signal
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from tests.integration.blocks import LAYOUT, chain, fetch, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.peers import Peer
from tests.integration.test_check import check
from tests.integration.test_spill import SMALL_HOST
from tests.lessons.damage import Disk, flip_bits
from tests.lessons.test_damage_trial import REGION_SLOTS
from tierd.core.units import MiB
from tierd_client import connect

HOST_BLOCKS = 2 * SMALL_HOST // LAYOUT.block_bytes


def _hold_and_die(pipe: "Connection[Any, Any]", address: str) -> None:
    kv = connect(address).open(LAYOUT)
    views = kv.fetch_views(chain(1, 12))
    pipe.send((len(views), len(kv.reserve(chain(777, 12)).indices)))
    signal.pause()


def _churn(daemon: Daemon) -> None:
    """Do all that takes slots and does not keep them, several times what fits."""
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for seed in range(40):
            publish(kv, chain(seed, 12))
            fetch(kv, chain(seed // 2, 12))
            kv.reserve(chain(1000 + seed, 12)).abort()
            abandoned = kv.reserve(chain(2000 + seed, 4))
            assert abandoned.seal() == len(abandoned.indices)
    with Peer(_hold_and_die, daemon.address) as peer:
        peer.take()
    eventually(lambda: daemon.status().leases == 0)


def _assert_counts_are_real(daemon: Daemon) -> None:
    with daemon.client() as client:
        eventually(lambda: client.status().tiers[0].write_queue == 0)
        host, disk = client.status().tiers
        assert host.bytes_used == host.blocks * LAYOUT.block_bytes
        assert host.bytes_used <= host.bytes_lent <= host.bytes_max
        assert disk.bytes_used <= disk.bytes_lent <= disk.bytes_max
        kv = client.open(LAYOUT)
        # All of the tier can be had, and nothing is declined: no slot has been lost.
        keys = chain(daemon.pid, HOST_BLOCKS)
        for first in range(0, HOST_BLOCKS, 8):
            assert publish(kv, keys[: first + 8]) == 8
        assert fetch(kv, keys) == HOST_BLOCKS
        eventually(lambda: client.status().tiers[0].write_queue == 0)
        assert client.status().tiers[0].blocks == HOST_BLOCKS


def test_lesson_09_no_slot_is_lost_to_the_accounts(start_daemon: StartDaemon) -> None:
    """LMCache#4546: the size of what was on disk was counted up and not always down. In the end
    the disk was full by the count, and every store was dropped without a word.

    Blocks are evicted, given up, found damaged, and left by the dead; then the whole tier must be
    there to be used, and again after a restart, which counts anew.
    """
    daemon = start_daemon(1 * MiB, tiers__host__bytes=2 * SMALL_HOST)
    _churn(daemon)
    _assert_counts_are_real(daemon)
    daemon.stop()
    disk = Disk(daemon.disk, LAYOUT, REGION_SLOTS)
    slots = sorted(disk.records.values())
    for seed in range(5):
        flip_bits(disk, Random(seed), slots)
    daemon.start()
    _churn(daemon)
    _assert_counts_are_real(daemon)
    daemon.stop()
    check(daemon, "--repair")
    namespaces = check(daemon)["namespaces"]
    assert isinstance(namespaces, list)
    daemon.start()
    assert daemon.status().tiers[1].blocks == namespaces[0]["records"]


def test_lesson_18_a_full_disk_tier_evicts_what_it_needs(start_daemon: StartDaemon) -> None:
    """Mooncake#2475: eviction on disk was off unless somebody switched it on, and disks filled up;
    the mend in PR#2286 then evicted 92 % of the tier where 5 % were meant.

    Nothing is configured here but the size.
    """
    daemon = start_daemon(1 * MiB, tiers__host__bytes=2 * SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        seed = 0
        while client.status().tiers[1].evictions == 0:
            publish(kv, chain(seed, 12))
            kv.persist(chain(seed, 12))
            seed += 1
        full = client.status().tiers[1]
        assert full.blocks * (LAYOUT.block_bytes + 4096) > 0.8 * full.bytes_max
        for more in range(seed, seed + 20):
            publish(kv, chain(more, 12))
            assert kv.persist(chain(more, 12)) == 12, "the newest is always taken"
            status = client.status().tiers[1]
            written = 12 * (more - seed + 1)
            assert status.evictions - full.evictions <= written
            assert status.blocks >= full.blocks - 12
