"""Which slots are free: budgets of tiers, regions lent to namespaces, slots within them."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.units import MiB

_STRIPE_BYTES: Final = 4 * MiB
"""Neighbours on one device before the next is used: no device is faster with more at once."""

_REGIONS_LOOKED_AT: Final = 8
_FREE_LOOKED_AT: Final = 1024
"""Where neighbours are looked for, so that a search has an end."""


@dataclass(slots=True)
class TierBudget:
    """The bytes of one tier. `bytes_lent` never exceeds `bytes_max`: the cap is hard."""

    bytes_max: int
    bytes_lent: int = 0

    def lend(self, count: int) -> bool:
        """Take `count` bytes if they are there."""
        if self.bytes_lent + count > self.bytes_max:
            return False
        self.bytes_lent += count
        return True

    def give_back(self, count: int) -> None:
        assert count <= self.bytes_lent, (count, self.bytes_lent)
        self.bytes_lent -= count


@dataclass(slots=True)
class Region:
    """`keys` are the blocks in its slots, by place, None if there is none. `free` are the slots
    that are not taken, in the order in which they were given back.

    A draining region hands out no more slots, and ends when empty.
    """

    keys: list[BlockKey | None]
    free: list[int]
    draining: bool = False

    @property
    def used(self) -> int:
        return len(self.keys) - len(self.free)


@dataclass(slots=True)
class SlotSpace:
    """One namespace's slots in one tier.

    A slot is free or taken; taken ones are reserved or hold a copy, which the leases, moves and
    the catalog know. Slot s lies in region `s // region_slots`. `free` and `used` count slots,
    without the free ones of draining regions. `with_room` are the regions that have free slots
    to hand out, next last. There may be ten thousands of regions: nothing here that happens
    often walks over all of them. `stripes` is over how many devices the medium deals regions, in
    order of their numbers; slots that are taken together come from all of them.
    """

    budget: TierBudget
    slot_bytes: int
    region_slots: int
    region_bytes: int
    stripes: int = 1
    regions: dict[int, Region] = field(default_factory=dict)
    with_room: OrderedDict[int, None] = field(default_factory=OrderedDict)
    draining: set[int] = field(default_factory=set)
    returning: set[int] = field(default_factory=set)
    free: int = 0
    used: int = 0
    _lowest_unused: int = 0  # or below it
    _turn: int = 0

    @property
    def slots(self) -> int:
        return len(self.regions) * self.region_slots

    @property
    def bytes_staying(self) -> int:
        """What is lent and not to be given back."""
        return (len(self.regions) - len(self.draining)) * self.region_bytes

    @property
    def bytes_leaving(self) -> int:
        """What is lent, and on its way back to the tier."""
        return (len(self.draining) + len(self.returning)) * self.region_bytes

    def lend(self) -> int | None:
        """Borrow one more region from the tier, and return it; None if there is no room."""
        if not self.budget.lend(self.region_bytes):
            return None
        number = self._lowest_unused
        while number in self.regions or number in self.returning:
            number += 1
        self._lowest_unused = number
        self.adopt(number)
        return number

    def adopt(self, number: int) -> None:
        """Add a region whose bytes are already counted as lent."""
        assert number not in self.regions, number
        first = number * self.region_slots
        # A region's last slot is popped first: the lowest, in a new one.
        free = list(range(first + self.region_slots - 1, first - 1, -1))
        self.regions[number] = Region([None] * self.region_slots, free)
        self.with_room[number] = None
        self.with_room.move_to_end(number, last=False)
        self.free += self.region_slots

    def take(self, count: int) -> list[int]:
        """Take up to `count` free slots, in as few runs of neighbours as are easily found.

        The slots of one region are in ascending order.
        """
        # As long a run from each device as there is, and not so short that it pays for nothing.
        share = max(-(-count // self.stripes), _STRIPE_BYTES // self.slot_bytes, 1)
        taken: list[int] = []
        while self.with_room and len(taken) < count:
            taken += self._take_run(min(share, count - len(taken)))
        self.free -= len(taken)
        self.used += len(taken)
        return sorted(taken) if self.stripes == 1 else taken

    def settle(self) -> None:
        """Count as taken, in regions that were adopted, exactly the slots that were filled."""
        for number, region in self.regions.items():
            first = number * self.region_slots
            region.free = [slot for slot in region.free if region.keys[slot - first] is None]
            if not region.free:
                del self.with_room[number]
        self.free = sum(len(region.free) for region in self.regions.values())
        self.used = self.slots - self.free

    def fill(self, slot: int, key: BlockKey | None) -> BlockKey | None:
        """Note which block a slot holds, until it is given back; None: none any more.

        Returns the block that it held before.
        """
        number, place = divmod(slot, self.region_slots)
        keys = self.regions[number].keys
        before, keys[place] = keys[place], key
        return before

    def give(self, slot: int) -> int | None:
        """Take back a slot; return its region if that was draining and is empty now."""
        number, place = divmod(slot, self.region_slots)
        region = self.regions[number]
        assert region.used > 0, number
        region.keys[place] = None
        region.free.append(slot)
        self.used -= 1
        if region.draining:
            return number if region.used == 0 else None
        self.with_room[number] = None
        self.free += 1
        return None

    def drain(self, number: int) -> bool:
        """Hand out no more slots of a region; say whether it is empty already."""
        region = self.regions[number]
        region.draining = True
        self.draining.add(number)
        self.with_room.pop(number, None)
        self.free -= len(region.free)
        return region.used == 0

    def start_return(self, number: int) -> None:
        """Let go of an empty region. Its bytes stay lent until `end_return`."""
        assert self.regions[number].used == 0, number
        del self.regions[number]
        self.draining.remove(number)
        self.returning.add(number)

    def end_return(self, number: int) -> None:
        self.returning.remove(number)
        self._lowest_unused = min(self._lowest_unused, number)
        self.budget.give_back(self.region_bytes)

    def _take_run(self, count: int) -> list[int]:
        """Take free slots of the device whose turn it is: the shortest run of `count`.

        Where there is none, the longest ones, and fewer slots if need be.
        """
        near = self._near()
        tail = self.regions[near[0]].free[-count:]
        if len(tail) == count == max(tail) - min(tail) + 1:
            return self._remove(tail, count)
        looked_at = max(count, _FREE_LOOKED_AT // len(near))
        free = (sorted(self.regions[number].free[-looked_at:]) for number in near)
        runs = sorted(chain.from_iterable(map(_runs, free)), key=len)
        fitting = next((run for run in runs if len(run) >= count), None)
        found = islice(fitting or chain.from_iterable(reversed(runs)), count)
        return self._remove(list(found), looked_at)

    def _near(self) -> list[int]:
        """Return some regions with room, next first, on the device whose turn it is if possible."""
        turn, self._turn = self._turn, (self._turn + 1) % self.stripes
        near = list(islice(reversed(self.with_room), _REGIONS_LOOKED_AT * self.stripes))
        its = [number for number in near if number % self.stripes == turn]
        return its or near[:_REGIONS_LOOKED_AT]

    def _remove(self, slots: Sequence[int], looked_at: int) -> list[int]:
        """Take free slots, among the `looked_at` last of their regions; return them in order."""
        taken = sorted(slots)
        for number, group in groupby(taken, lambda slot: slot // self.region_slots):
            free = self.regions[number].free
            # The lowest of the rest is next again.
            free[-looked_at:] = sorted(set(free[-looked_at:]).difference(group), reverse=True)
            if not free:
                del self.with_room[number]
        return taken


def _runs(slots: Sequence[int]) -> list[Sequence[int]]:
    """Cut ascending slots into runs of neighbours."""
    cuts = [at for at in range(1, len(slots)) if slots[at] != slots[at - 1] + 1]
    return [slots[start:end] for start, end in zip([0, *cuts], [*cuts, len(slots)], strict=True)]
