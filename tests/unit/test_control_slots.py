"""Which free slots are taken: neighbours, and of several devices each in turn."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from statistics import mean

import pytest

from tierd.control.slots import SlotSpace, TierBudget
from tierd.core.units import KiB, MiB

REGION_SLOTS = 255


def space(regions: int, region_slots: int = REGION_SLOTS, stripes: int = 1) -> SlotSpace:
    made = SlotSpace(TierBudget(1 << 40), 2 * MiB, region_slots, 64 * MiB, stripes)
    for _ in range(regions):
        made.lend()
    return made


def runs(slots: Sequence[int], region_slots: int = REGION_SLOTS) -> list[int]:
    """Return the lengths of the runs of neighbours within a region, in order."""
    lengths = [1]
    for before, slot in pairwise(slots):
        if slot == before + 1 and slot % region_slots:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


class LastOnesOut:
    """What `take` was before: whatever was given back last."""

    def __init__(self, regions: int) -> None:
        self._free = list(range(regions * REGION_SLOTS - 1, -1, -1))

    def take(self, count: int) -> list[int]:
        taken = sorted(self._free[-count:])
        del self._free[-count:]
        return taken

    def give(self, slot: int) -> int | None:
        self._free.append(slot)
        return None


def churned(slots: SlotSpace | LastOnesOut, seed: int, regions: int = 8) -> Iterator[int]:
    """Yield the lengths of runs that chains get while others, as random, are given back."""
    random = Random(seed)
    held: list[list[int]] = []
    room = regions * REGION_SLOTS
    for _ in range(1500):
        wanted = random.randint(1, 40)
        while room < wanted + 200:
            gone = held.pop(random.randrange(len(held)))
            kept = random.randrange(len(gone))
            for slot in reversed(gone[kept:]):  # a chain goes from its end
                slots.give(slot)
            room += len(gone) - kept
            if kept:
                held.append(gone[:kept])
        taken = slots.take(wanted)
        assert len(taken) == wanted
        yield from runs(taken)
        room -= wanted
        held.append(taken)


@pytest.mark.parametrize("seed", range(3))
def test_runs_stay_longer_under_churn_than_with_a_plain_stack(seed: int) -> None:
    """Free slots were a stack: after some use of the disk, neighbours in a chain were not on it."""
    before = mean(churned(LastOnesOut(8), seed))
    after = mean(churned(space(8), seed))
    assert after > 1.25 * before, (before, after)


def test_a_new_region_is_taken_from_its_start_without_gaps() -> None:
    slots = space(2)
    assert [slots.take(16) for _ in range(3)] == [
        list(range(at, at + 16)) for at in range(0, 48, 16)
    ]


def test_the_shortest_run_that_is_long_enough_is_taken() -> None:
    slots = space(1)
    taken = slots.take(REGION_SLOTS)
    for slot in (*taken[100:120], *taken[10:14], *taken[30:36], 200):
        slots.give(slot)
    assert slots.take(4) == taken[10:14]
    assert slots.take(5) == taken[30:35]
    assert slots.take(18) == taken[100:118]


def test_without_a_run_that_is_long_enough_the_longest_are_taken() -> None:
    slots = space(1)
    taken = slots.take(REGION_SLOTS)
    for slot in (1, 2, 3, 10, 20, 21, 30):
        slots.give(slot)
    assert slots.take(5) == [1, 2, 3, 20, 21]
    assert sorted(slots.take(9)) == [10, 30]
    assert slots.free == 0
    assert slots.used == len(taken)


@pytest.mark.parametrize("stripes", [2, 3, 4])
def test_what_is_taken_together_comes_from_all_devices(stripes: int) -> None:
    """A chain lay in one region after another, and was read from one device at a time."""
    slots = space(12, 31, stripes)
    chain = [slot for _ in range(8) for slot in slots.take(16)]
    assert len(set(chain)) == 128
    for first in range(0, 128 - 16, 16):
        batch = chain[first : first + 16]
        devices = {slot // 31 % stripes for slot in batch}
        assert len(devices) == stripes, (first, batch)
    assert mean(runs(chain, 31)) >= 16 / stripes / 2


def test_small_blocks_are_not_torn_over_devices() -> None:
    slots = SlotSpace(TierBudget(1 << 40), 256 * KiB, 64, 16 * MiB, 2)
    for _ in range(4):
        slots.lend()
    chain = slots.take(32)
    assert runs(chain, 64) == [16, 16]
    assert [slot // 64 % 2 for slot in chain[::16]] == [0, 1]
    assert [runs(slots.take(8), 64) for _ in range(4)] == [[8]] * 4


def test_a_device_without_room_is_passed_over() -> None:
    slots = space(4, 8, 2)
    taken = slots.take(32)
    for slot in taken:
        if slot // 8 == 2:
            slots.give(slot)
    assert sorted(slots.take(8)) == list(range(16, 24))
    assert slots.take(1) == []
