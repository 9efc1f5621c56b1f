"""The scrubber reads what is at rest, once a pass, and tells damage from a slot that moved on."""

from collections.abc import AsyncIterator, Sequence
from mmap import mmap
from pathlib import Path

import pytest

from tierd.control.catalog import Catalog
from tierd.control.events import CopyCorrupt
from tierd.core.errors import CorruptSlot, TierOffline
from tierd.core.keys import BlockKey, chain_keys
from tierd.core.layouts import opaque_layout
from tierd.core.slots import slot_offset
from tierd.core.units import GiB
from tierd.tiers.base import SlotRead, SlotWrite, SpaceSpec
from tierd.tiers.disk import DiskTier
from tierd.tiers.host import HostTier
from tierd.transfer.mover import Mover, SpaceRow
from tierd.transfer.prober import Prober
from tierd.transfer.scrubber import Scrubber

LAYOUT = opaque_layout("scrubbed", block_tokens=4, token_bytes=2000)
SLOTS = 4
KEYS = chain_keys(LAYOUT.root, list(range(24)), 4)
DISK = 1


class Place:
    """A disk tier with six blocks, a catalog of them, and a scrubber over both."""

    def __init__(self, directory: Path) -> None:
        self.host = HostTier("host", 64 * LAYOUT.block_bytes, None)
        self.disk = DiskTier([directory], threads=1)
        spec = SpaceSpec(LAYOUT, SLOTS)
        self.space = self.disk.space(spec)
        host = self.host.space(spec)
        row = self.row = SpaceRow(LAYOUT.fingerprint, host, [host, self.space])
        self.catalog = Catalog()
        self.found: list[CopyCorrupt] = []
        prober = Prober([], lambda event: None)
        mover = Mover([row], 0, {}, 1, lambda done: None, prober, {})
        self.scrubber = Scrubber(self.catalog, [row], DISK, mover, self.found.append, 1024 * GiB)

    async def fill(self) -> None:
        parent = LAYOUT.root
        for slot, key in enumerate(KEYS):
            await self.write(slot, key)
            self.catalog.add_copy(0, key, parent, DISK, slot, tiers=2)
            parent = key

    async def write(self, slot: int, key: BlockKey) -> None:
        source = memoryview(mmap(-1, LAYOUT.block_bytes))
        await self.space.write([SlotWrite(slot, key, LAYOUT.root, slot, source)])

    def damage(self, slot: int) -> None:
        at = slot_offset(slot, SLOTS, LAYOUT) + 5000
        with self.space.segment_path(slot // SLOTS).open("r+b") as file:
            file.seek(at)
            file.write(b"\xff")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    await made.fill()
    yield made
    await made.disk.aclose()
    await made.host.aclose()


async def test_blocks_that_are_right_are_read_and_left_alone(place: Place) -> None:
    assert await place.scrubber.scrub() == (6, 0)
    assert place.found == []


async def test_a_damaged_block_is_reported(place: Place) -> None:
    place.damage(4)
    assert await place.scrubber.scrub() == (6, 1)
    assert place.found == [CopyCorrupt(KEYS[4], DISK, 4)]


async def test_blocks_that_somebody_reads_are_left_to_him(place: Place) -> None:
    place.damage(4)
    place.catalog.readers[place.catalog.blocks[KEYS[4]]] = 1
    assert await place.scrubber.scrub() == (5, 0)


async def test_a_slot_that_is_given_away_during_the_read_is_no_damage(place: Place) -> None:
    class Evicting:
        """Loses every block of slot 4 while it reads."""

        spec = place.space.spec

        async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
            if reads[0].slot == 4:
                place.catalog.blocks[reads[0].key].place(DISK, None)
                await place.write(4, KEYS[0])
            return await place.space.read(reads)

    place.row.spaces[DISK] = Evicting()  # type: ignore[index]
    assert await place.scrubber.scrub() == (6, 0)
    assert place.found == []


async def test_a_tier_that_does_not_answer_ends_the_pass(place: Place) -> None:
    class Silent:
        spec = place.space.spec

        async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
            raise TierOffline("disk", "EIO")

    place.row.spaces[DISK] = Silent()  # type: ignore[index]
    assert await place.scrubber.scrub() == (0, 0)
    assert place.found == []
