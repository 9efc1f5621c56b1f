"""Which slots are free: budgets of tiers, regions lent to namespaces, slots within them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tierd.core.keys import BlockKey


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
    """`used` counts taken slots; `keys` are the blocks in them, by place, None if there is none.

    A draining region hands out no more slots, and ends when empty.
    """

    keys: list[BlockKey | None]
    used: int = 0
    draining: bool = False


@dataclass(slots=True)
class SlotSpace:
    """One namespace's slots in one tier.

    A slot is free (in `free`) or taken; taken ones are reserved or hold a copy, which the
    leases, moves and the catalog know. Slot s lies in region `s // region_slots`.
    """

    budget: TierBudget
    slot_bytes: int
    region_slots: int
    region_bytes: int
    regions: dict[int, Region] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    returning: set[int] = field(default_factory=set)
    used: int = 0

    @property
    def slots(self) -> int:
        return len(self.regions) * self.region_slots

    def lend(self) -> int | None:
        """Borrow one more region from the tier, and return it; None if there is no room."""
        if not self.budget.lend(self.region_bytes):
            return None
        number = next(
            n for n in range(len(self.regions) + len(self.returning) + 1) if self._unused(n)
        )
        self.adopt(number)
        return number

    def adopt(self, number: int) -> None:
        """Add a region whose bytes are already counted as lent."""
        assert number not in self.regions, number
        self.regions[number] = Region([None] * self.region_slots)
        first = number * self.region_slots
        # The stack pops from its end: new slots go beneath the free ones, lowest popped first.
        self.free[:0] = range(first + self.region_slots - 1, first - 1, -1)

    def take(self, count: int) -> list[int]:
        """Take up to `count` free slots, neighbours where possible, in ascending order."""
        taken = self.free[-count:] if count else []
        del self.free[len(self.free) - len(taken) :]
        taken.sort()
        self._count(taken)
        return taken

    def take_exactly(self, slots: set[int]) -> None:
        """Take given free slots, as recovery does."""
        self.free = [slot for slot in self.free if slot not in slots]
        self._count(slots)

    def fill(self, slot: int, key: BlockKey | None) -> None:
        """Note which block a taken slot holds, until it is given back; None: none any more."""
        self.regions[slot // self.region_slots].keys[slot % self.region_slots] = key

    def give(self, slot: int) -> int | None:
        """Take back a slot; return its region if that was draining and is empty now."""
        number, place = divmod(slot, self.region_slots)
        region = self.regions[number]
        assert region.used > 0, number
        region.used -= 1
        region.keys[place] = None
        self.used -= 1
        if not region.draining:
            self.free.append(slot)
            return None
        return number if region.used == 0 else None

    def drain(self, number: int) -> bool:
        """Hand out no more slots of a region; say whether it is empty already."""
        region = self.regions[number]
        region.draining = True
        first = number * self.region_slots
        self.free = [slot for slot in self.free if not first <= slot < first + self.region_slots]
        return region.used == 0

    def start_return(self, number: int) -> None:
        """Let go of an empty region. Its bytes stay lent until `end_return`."""
        assert self.regions[number].used == 0, number
        del self.regions[number]
        self.returning.add(number)

    def end_return(self, number: int) -> None:
        self.returning.remove(number)
        self.budget.give_back(self.region_bytes)

    def _count(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self.regions[slot // self.region_slots].used += 1
            self.used += 1

    def _unused(self, number: int) -> bool:
        return number not in self.regions and number not in self.returning
