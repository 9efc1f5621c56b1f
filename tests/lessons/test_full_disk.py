"""Lessons 4, 9 and 10 on a disk with no room left, and on one that has a cap.

A real file system of a few MiB where mounting is allowed; a tier that says it is full elsewhere.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.integration.blocks import LAYOUT, ODD, chain, fetch, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.test_check import check
from tests.integration.test_faulty_disk import DISK, HOST, SLOTS, Rig, key_of
from tests.integration.test_spill import SMALL_HOST
from tierd.core.units import KiB, MiB
from tierd.tiers.faulty import NO_FAULTS, FaultRatios
from tierd_client import Namespace


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system of its own, of which others may take what is left."""

    directory: Path

    def fill(self, left_bytes: int) -> None:
        """Have somebody else use all that is free but `left_bytes`."""
        free = os.statvfs(self.directory)
        with (self.directory / "of-others").open("wb") as file:
            file.write(bytes(free.f_bavail * free.f_frsize - left_bytes))

    def make_room(self) -> None:
        (self.directory / "of-others").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs of 8 MiB: what it says when it is full is what any file system says."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0755", "tierd-test", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed: {mounted.stderr.strip()}")
    yield SmallDisk(place)
    subprocess.run(["umount", str(place)], check=True)


def _start_on(start_daemon: StartDaemon, disk: SmallDisk) -> Daemon:
    daemon = start_daemon(tiers__host__bytes=2 * SMALL_HOST)
    daemon.stop()
    daemon.disk = disk.directory / "tierd"
    daemon.settings |= {
        "tiers.disk.bytes": 4 * MiB,
        "tiers.disk.directories": daemon.disk,
        "tiers.disk.scrub_bytes_per_s": 0,
    }
    daemon.start()
    return daemon


def _is_durable(kv: Namespace, seeds: Iterator[int]) -> bool:
    """Publish a chain that nobody has, and say whether it gets to the disk."""
    keys = chain(next(seeds), 10)
    publish(kv, keys)
    return kv.persist(keys, wait_s=0.5) == 10


@pytest.mark.parametrize("left_bytes", [0, 48 * KiB], ids=["for nothing", "for the index"])
def test_lesson_04_and_10_a_full_disk(
    small_disk: SmallDisk, start_daemon: StartDaemon, left_bytes: int
) -> None:
    """LMCache#4725: a node ran out of disk, because the cache had filled it, and everything on the
    node failed. LMCache#4991: what could not be stored stayed visible.

    Somebody else fills the disk. Host memory serves on, nothing is promised that is not there, and
    when there is room again the tier is used again.
    """
    daemon = _start_on(start_daemon, small_disk)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        early = chain(0, 40)
        assert publish(kv, early) == 40
        assert kv.persist(early) == 40
        small_disk.fill(left_bytes)
        for seed in range(1, 30):
            keys = chain(seed, 12)
            eventually(lambda: publish(kv, keys) or kv.match(keys).blocks)  # noqa: B023
            assert fetch(kv, keys) >= 1
        assert sum(fetch(kv, chain(seed, 12)) for seed in range(30)) > 0
        assert kv.persist(chain(29, 12), wait_s=0.2) < 12, (
            "it is not durable, and is not said to be"
        )
        status = client.status()
        assert status.tiers[1].cause
        assert status.namespaces[0].corrupt_blocks == 0
        small_disk.make_room()
        seeds = iter(range(1000, 10_000))
        eventually(lambda: _is_durable(kv, seeds))
        assert fetch(kv, early) == kv.match(early).blocks
        daemon.kill()
    assert check(daemon)["problems"] == []
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for seed in range(1, 30):
            assert fetch(kv, chain(seed, 12)) == kv.match(chain(seed, 12)).blocks
        assert client.status().namespaces[0].corrupt_blocks == 0


async def test_lesson_04_a_full_tier_has_no_records_of_what_it_refused(tmp_path: Path) -> None:
    """The same by a tier that says it is full, wherever this runs."""
    rig = Rig(tmp_path, seed=0)
    try:
        rig.disk.faults = FaultRatios(full=1.0)
        refused = await rig.move_all(HOST, DISK)
        assert {end.fault for end in refused.values()} == {"target"}
        assert rig.index.slots == {}
        rig.disk.faults = NO_FAULTS
        written = await rig.move_all(HOST, DISK)
        assert {end.fault for end in written.values()} == {None}
        assert rig.index.slots == {key_of(slot): slot for slot in SLOTS}
    finally:
        await rig.disk.aclose()
        await rig.host.aclose()


# ---- the cap


def _physical_bytes(directory: Path) -> int:
    """Return what the segments take of the medium, whatever their length is."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if ".segment" in entry.name:
                try:
                    total += entry.stat().st_blocks * 512
                except FileNotFoundError:
                    continue  # It went while we looked.
    return total


def test_lesson_10_physical_bytes_never_exceed_the_cap(start_daemon: StartDaemon) -> None:
    """LMCache#4725, #1724, #4664: 14 TB on a disk whose cap was 4 TB, for the cap was of what the
    cache believed to have written.

    Three times the cap is published, in two namespaces that take regions from each other, while
    the medium is looked at all the time.
    """
    cap = 1 * MiB
    daemon = start_daemon(cap, tiers__host__bytes=4 * SMALL_HOST)
    over, seen = Event(), [0]

    def look() -> None:
        while not over.wait(0.002):
            seen.append(_physical_bytes(daemon.disk))

    looking = Thread(target=look)
    looking.start()
    try:
        with daemon.client() as client:
            for turn in range(4):
                kv = client.open((LAYOUT, ODD)[turn % 2])
                for seed in range(10 * turn, 10 * turn + 10):
                    publish(kv, chain(seed, 12, kv.layout))
                    kv.persist(chain(seed, 12, kv.layout))
            status = client.status().tiers[1]
            assert status.bytes_written > 3 * cap
            assert status.bytes_used <= status.bytes_lent <= cap
        daemon.kill()
        daemon.start()
    finally:
        over.set()
        looking.join()
    assert max(seen) > cap // 2
    assert max(seen) <= cap
    assert sum(path.stat().st_size for path in daemon.segments()) <= cap
