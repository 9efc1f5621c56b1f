"""Damages segment files as mediums do, from a seed, and says which slots are not as they were.

What is damaged is told by comparing bytes before and after: nothing here asks tierd's own code
whether a slot is right.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import parse_segment_name, slot_offset, slot_stride_bytes
from tierd.core.units import PAGE_BYTES, GiB
from tierd.index.lmdb_index import Index


@dataclass(slots=True)
class Disk:
    """The slots of one namespace in a directory that no daemon has.

    `images`, of header and payload, and `records` are those found when this was made. Slots that
    were never written have no image.
    """

    directory: Path
    layout: LayoutSpec
    region_slots: int
    images: dict[int, bytes] = field(init=False)
    records: dict[BlockKey, int] = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.read()
        index = Index(self.directory / "index", GiB)
        try:
            found = index.load(self.layout.fingerprint)
            self.records = {each.key: each.slot for each in found}
        finally:
            index.close()

    def read(self) -> dict[int, bytes]:
        """Return what is in the slots now. One that is cut off has fewer bytes."""
        stride, count = slot_stride_bytes(self.layout), self.region_slots
        found = {}
        for region, path in self.segments().items():
            held = path.read_bytes()
            for slot in range(region * count, (region + 1) * count):
                at = slot_offset(slot, count, self.layout)
                image = held[at : at + stride]
                if any(image):
                    found[slot] = image
        return found

    def segments(self) -> dict[int, Path]:
        """Return the files by region."""
        named = ((parse_segment_name(path.name), path) for path in self.directory.iterdir())
        return {
            name[1]: path for name, path in named if name and name[0] == self.layout.fingerprint
        }

    def damaged(self) -> set[int]:
        """Return the slots whose bytes are not those found first."""
        now = self.read()
        return {slot for slot, image in self.images.items() if now.get(slot) != image}

    def put(self, slot: int, image: bytes, at: int = 0) -> None:
        """Write into a slot, durably."""
        path = self.segments()[slot // self.region_slots]
        with path.open("r+b") as file:
            file.seek(slot_offset(slot, self.region_slots, self.layout) + at)
            file.write(image)
            file.flush()
            os.fsync(file.fileno())


Harm = Callable[[Disk, Random, list[int]], None]
"""Damages some of the slots that are given. Of these nobody else takes one."""


def flip_bits(disk: Disk, rng: Random, slots: list[int]) -> None:
    """Turn one bit of a slot's header, and one of another's payload."""
    for low, high in ((0, PAGE_BYTES), (PAGE_BYTES, len(disk.images[slots[0]]))):
        slot = slots.pop()
        at = rng.randrange(low, high)
        disk.put(slot, bytes([disk.images[slot][at] ^ 1 << rng.randrange(8)]), at)


def swap_slots(disk: Disk, rng: Random, slots: list[int]) -> None:
    """Have two writes go each where the other should: both slots are whole, and wrong."""
    one, other = slots.pop(), slots.pop()
    disk.put(one, disk.images[other])
    disk.put(other, disk.images[one])


def zero_page(disk: Disk, rng: Random, slots: list[int]) -> None:
    """Lose a page, as a file system may after a power cut."""
    slot = slots.pop()
    disk.put(slot, bytes(PAGE_BYTES), rng.randrange(2) * PAGE_BYTES)


def tear(disk: Disk, rng: Random, slots: list[int]) -> None:
    """Leave of a write only the header: its payload is that of the block before."""
    slot, other = slots.pop(), slots.pop()
    disk.put(slot, disk.images[other][PAGE_BYTES:], PAGE_BYTES)


def cut_off(disk: Disk, rng: Random, slots: list[int]) -> None:
    """Truncate the segment of a slot, somewhere in that slot."""
    slot = slots.pop()
    path = disk.segments()[slot // disk.region_slots]
    start = slot_offset(slot, disk.region_slots, disk.layout)
    os.truncate(path, start + rng.randrange(slot_stride_bytes(disk.layout)))


def put_back(old: Disk) -> Callable[[Disk, list[int]], None]:
    """Return a harm that loses the last write to two slots: what was in them before is back."""

    def harm(disk: Disk, slots: list[int]) -> None:
        twice = [slot for slot in slots if slot in old.images]
        twice = [slot for slot in twice if old.images[slot] != disk.images[slot]]
        assert len(twice) > 1, "hardly a slot was written twice"
        for slot in twice[:2]:
            slots.remove(slot)
            disk.put(slot, old.images[slot])

    return harm


HARMS: Final[tuple[Harm, ...]] = (flip_bits, swap_slots, zero_page, tear, cut_off)
