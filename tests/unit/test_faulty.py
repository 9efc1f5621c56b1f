"""A tier that fails: every fault is either said, or found out when the block is read."""

import mmap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from tierd.core.errors import CorruptSlot, TierOffline
from tierd.core.keys import BlockKey
from tierd.core.layouts import opaque_layout
from tierd.core.units import PAGE_BYTES
from tierd.tiers.base import SlotRead, SlotWrite, Space, SpaceSpec
from tierd.tiers.disk import DiskSpace, DiskTier
from tierd.tiers.faulty import NO_FAULTS, FaultRatios, FaultyTier

LAYOUT = opaque_layout("faulty", block_tokens=8, token_bytes=512)
SPEC = SpaceSpec(LAYOUT, region_slots=8)


def flip(space: Space, slot: int) -> None:
    """Change the first byte of a slot's payload on disk."""
    assert isinstance(space, DiskSpace)
    region, place = divmod(slot, SPEC.region_slots)
    with space.segment_path(region).open("r+b") as file:
        at = space.slot_offset(place) + PAGE_BYTES
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


class Stalls:
    """Counts stalls instead of waiting."""

    def __init__(self) -> None:
        self.count = 0

    async def wait(self) -> None:
        self.count += 1


@pytest.fixture
def stalls() -> Stalls:
    return Stalls()


Make = Callable[[FaultRatios], FaultyTier]


@pytest.fixture
async def make(tmp_path: Path, stalls: Stalls) -> AsyncIterator[Make]:
    made: list[FaultyTier] = []

    def faulty(faults: FaultRatios) -> FaultyTier:
        disk = DiskTier([tmp_path], threads=1)
        made.append(FaultyTier(disk, Random(len(made)), faults, stalls.wait, flip))
        return made[-1]

    yield faulty
    for tier in made:
        await tier.aclose()


def key_of(slot: int) -> BlockKey:
    return BlockKey(slot.to_bytes(16, "big"))


def block(slot: int) -> SlotWrite:
    source = memoryview(mmap.mmap(-1, LAYOUT.block_bytes))
    source[:] = bytes([slot + 1]) * len(source)
    return SlotWrite(slot, key_of(slot), LAYOUT.root, slot, source)


def wanted(slot: int) -> SlotRead:
    return SlotRead(slot, key_of(slot), memoryview(mmap.mmap(-1, LAYOUT.block_bytes)))


async def broken(space: Space, slots: range) -> list[int]:
    """Return the slots that do not give their block back; the others do, byte for byte."""
    reads = [wanted(slot) for slot in slots]
    faults = await space.read(reads)
    for read, fault in zip(reads, faults, strict=True):
        assert isinstance(fault, CorruptSlot) or bytes(read.target) == bytes(
            block(read.slot).source
        )
    return [read.slot for read, fault in zip(reads, faults, strict=True) if fault is not None]


async def test_refuses_to_write_read_and_sync(make: Make) -> None:
    space = make(FaultRatios(refused=1.0)).space(SPEC)
    with pytest.raises(TierOffline, match="Input/output error"):
        await space.write([block(0)])
    with pytest.raises(TierOffline):
        await space.read([wanted(0)])
    with pytest.raises(TierOffline):
        await space.sync()


async def test_is_full_for_writes_only(make: Make) -> None:
    tier = make(NO_FAULTS)
    space = tier.space(SPEC)
    await space.write([block(0)])
    tier.faults = FaultRatios(full=1.0)
    with pytest.raises(TierOffline, match="No space left"):
        await space.write([block(1)])
    assert await broken(space, range(1)) == []


async def test_stalls_and_then_answers(make: Make, stalls: Stalls) -> None:
    space = make(FaultRatios(stalled=1.0)).space(SPEC)
    await space.write([block(0)])
    assert await broken(space, range(1)) == []
    assert stalls.count == 2


async def test_a_flipped_bit_is_found(make: Make) -> None:
    space = make(FaultRatios(flipped=1.0)).space(SPEC)
    await space.write([block(slot) for slot in range(4)])
    assert await broken(space, range(4)) == [0, 1, 2, 3]


async def test_a_torn_batch_ends_somewhere(make: Make) -> None:
    tier = make(NO_FAULTS)
    space = tier.space(SPEC)
    await space.write([block(7)])
    tier.faults = FaultRatios(torn=1.0)
    await space.write([block(slot) for slot in range(4)])
    missing = await broken(space, range(4))
    assert missing
    assert missing == list(range(missing[0], 4))


async def test_a_misdirected_block_is_neither_here_nor_there(make: Make) -> None:
    tier = make(NO_FAULTS)
    space = tier.space(SPEC)
    await space.write([block(slot) for slot in range(8)])
    tier.faults = FaultRatios(misdirected=1.0)
    await space.write([SlotWrite(3, key_of(30), LAYOUT.root, 9, block(3).source)])
    [overwritten] = await broken(space, range(8))
    assert overwritten != 3
    [fault] = await space.read([SlotRead(3, key_of(30), wanted(3).target)])
    assert isinstance(fault, CorruptSlot)


async def test_a_seed_gives_the_same_faults(make: Make) -> None:
    faults = FaultRatios(refused=0.3)
    outcomes = []
    for _ in range(2):
        tier = FaultyTier(make(NO_FAULTS), Random(1), faults, Stalls().wait, flip)
        space = tier.space(SPEC)
        outcomes.append([await _refused(space) for _ in range(20)])
    assert outcomes[0] == outcomes[1]
    assert {True, False} <= set(outcomes[0])


async def _refused(space: Space) -> bool:
    try:
        await space.sync()
    except TierOffline:
        return True
    return False
