"""All kinds of damage to a disk, from a seed: no wrong byte by any route, and check finds all.

Half of the slots hold their second block, so that there are old images to bring back.
"""

import shutil
from collections.abc import Sequence
from itertools import takewhile
from random import Random
from typing import cast

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, chain, content, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import REGION_BYTES, Daemon, eventually
from tests.integration.test_check import check
from tests.integration.test_spill import SMALL_HOST
from tests.lessons.damage import HARMS, Disk, put_back
from tierd.core.slots import slot_stride_bytes
from tierd.core.units import PAGE_BYTES, MiB
from tierd_client import BlockKey, Namespace
from tierd_client.splitting import Route

REGION_SLOTS = (REGION_BYTES - PAGE_BYTES) // slot_stride_bytes(LAYOUT)
CHAINS = [chain(seed, 12) for seed in range(20)]
"""Twice what fits on disk."""

ROUTES: tuple[Route, ...] = ("auto", "staged", "direct")


class Trial:
    """A daemon's directory with known damage. The daemon is stopped."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._publish(CHAINS[:10])
        daemon.stop()
        old = Disk(daemon.disk, LAYOUT, REGION_SLOTS)
        daemon.start()
        self._publish(CHAINS[10:])
        daemon.stop()
        self.disk = Disk(daemon.disk, LAYOUT, REGION_SLOTS)
        self.records = self.disk.records
        self._old = old

    def harm(self, seed: int) -> None:
        """Do every kind of damage once, to slots that have a record."""
        rng = Random(seed)
        slots = sorted(self.records.values())
        rng.shuffle(slots)
        put_back(self._old)(self.disk, slots)
        for harm in HARMS:
            harm(self.disk, rng, slots)

    def lost(self) -> set[BlockKey]:
        """Return the blocks whose slot is not as it was."""
        damaged = self.disk.damaged()
        return {key for key, slot in self.records.items() if slot in damaged}

    def prefix(self, keys: Sequence[BlockKey], lost: set[BlockKey]) -> int:
        """Return how much of a chain can be served."""
        return len(list(takewhile(lambda key: key in self.records and key not in lost, keys)))

    def _publish(self, chains: Sequence[Sequence[BlockKey]]) -> None:
        with self.daemon.client() as client:
            kv = client.open(LAYOUT)
            for keys in chains:
                publish(kv, keys)
                assert kv.persist(keys) == len(keys)


@pytest.fixture
def trial(start_daemon: StartDaemon) -> Trial:
    return Trial(start_daemon(1 * MiB, tiers__host__bytes=4 * SMALL_HOST))


def right(kv: Namespace, keys: Sequence[BlockKey], route: Route) -> int:
    """Return how many blocks a fetch brings, all of whose bytes are right."""
    into = room(keys)
    fetched = kv.fetch(keys, into, route=route)
    assert np.array_equal(into[: fetched.blocks], content(keys[: fetched.blocks]))
    return fetched.blocks


def keys_found(found: dict[str, object]) -> set[str]:
    problems = cast("list[dict[str, str]]", found["problems"])
    assert {each["kind"] for each in problems} == {"record"}
    return {each["key"] for each in problems}


@pytest.mark.parametrize(("seed", "route"), list(enumerate(ROUTES)), ids=ROUTES)
def test_no_route_gives_a_wrong_byte(trial: Trial, seed: int, route: Route) -> None:
    trial.harm(seed)
    lost = trial.lost()
    assert len(lost) >= 9
    trial.daemon.start()
    with trial.daemon.client() as client:
        kv = client.open(LAYOUT)
        for keys in CHAINS:
            assert right(kv, keys, route) == trial.prefix(keys, lost), "as much as there is"
        hit = sum(any(key in lost for key in keys) for keys in CHAINS)
        eventually(lambda: hit <= client.status().namespaces[0].corrupt_blocks <= len(lost))
        for keys in CHAINS:
            assert right(kv, keys, route) == trial.prefix(keys, lost), "what was bad is forgotten"
        for keys in CHAINS:
            publish(kv, keys)
            assert right(kv, keys, route) == len(keys), "and written anew"


@pytest.mark.parametrize(("seed", "route"), list(enumerate(ROUTES)), ids=ROUTES)
def test_damage_under_a_running_daemon(trial: Trial, seed: int, route: Route) -> None:
    trial.daemon.start()
    with trial.daemon.client() as client:
        kv = client.open(LAYOUT)
        assert kv.match(CHAINS[-1]).blocks == len(CHAINS[-1])
        trial.harm(10 + seed)
        lost = trial.lost()
        for keys in CHAINS:
            assert right(kv, keys, route) == trial.prefix(keys, lost)
        eventually(lambda: client.status().namespaces[0].corrupt_blocks)
    trial.daemon.stop()
    check(trial.daemon, "--repair")
    assert check(trial.daemon)["problems"] == []


@pytest.mark.parametrize("seed", range(20, 22))
def test_check_finds_exactly_the_damaged_and_mends(trial: Trial, seed: int) -> None:
    trial.harm(seed)
    lost = trial.lost()
    hexes = {key.hex() for key in lost}
    assert keys_found(check(trial.daemon, code=1)) == hexes
    assert keys_found(check(trial.daemon, code=1)) == hexes, "a check changes nothing"
    assert keys_found(check(trial.daemon, "--repair")) == hexes
    assert check(trial.daemon)["problems"] == []
    trial.daemon.start()
    with trial.daemon.client() as client:
        kv = client.open(LAYOUT)
        for keys in CHAINS:
            assert right(kv, keys, "auto") == trial.prefix(keys, lost)
        assert client.status().namespaces[0].corrupt_blocks == 0, "nothing of it is left"


def test_a_lost_index_is_made_anew_from_what_is_right(trial: Trial) -> None:
    """A block that went into the wrong slot is whole there, and is found."""
    trial.harm(30)
    whole = set(trial.disk.read().values())
    gone = {key for key, slot in trial.records.items() if trial.disk.images[slot] not in whole}
    assert 0 < len(gone) < len(trial.lost())
    shutil.rmtree(trial.daemon.disk / "index")
    check(trial.daemon, code=1)
    check(trial.daemon, "--rebuild")
    assert check(trial.daemon)["problems"] == []
    trial.daemon.start()
    with trial.daemon.client() as client:
        kv = client.open(LAYOUT)
        for keys in CHAINS:
            assert right(kv, keys, "auto") >= trial.prefix(keys, gone), "evicted ones may be back"
        assert client.status().namespaces[0].corrupt_blocks == 0
