"""Every tier keeps the promises of `tierd/tiers/base.py`, on blocks of whole and of odd sizes."""

import mmap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from tierd.core.keys import BlockKey
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.units import PAGE_BYTES, MiB
from tierd.tiers.base import Probe, SlotRead, SlotWrite, Space, SpaceSpec, Tier
from tierd.tiers.device import EmulatedDeviceTier
from tierd.tiers.disk import DiskTier
from tierd.tiers.faulty import NO_FAULTS, FaultyTier
from tierd.tiers.host import HostTier
from tierd.tiers.throttled import ThrottledTier

REGION_SLOTS = 4

TIERS: dict[str, Callable[[Path], Tier]] = {
    "host": lambda _: HostTier("host", bytes_max=8 * MiB),
    "device, emulated": lambda _: EmulatedDeviceTier("device", bytes_max=8 * MiB),
    "disk": lambda path: DiskTier([path / "disk"], threads=2),
    "disk, striped": lambda path: DiskTier([path / "one", path / "two"], threads=1),
    "disk, throttled": lambda path: ThrottledTier(DiskTier([path / "disk"], threads=1), 10**9),
    "faulty, without faults": lambda path: without_faults(DiskTier([path / "disk"], threads=1)),
}


def without_faults(tier: Tier) -> Tier:
    async def never() -> None:
        raise AssertionError("it does not stall")

    def nothing(space: Space, slot: int) -> None:
        raise AssertionError("it does not spoil anything")

    return FaultyTier(tier, Random(0), NO_FAULTS, never, nothing)


def layout(head_size: int, shards: int) -> LayoutSpec:
    group = LayerGroup(layers=3, kv_heads=1, head_size=head_size)
    return LayoutSpec(
        model="conformance", groups=(group,), block_tokens=4, dtype="uint8", shards=shards
    )


LAYOUTS = {
    "whole pages": layout(head_size=1024, shards=1),
    "odd part": layout(head_size=37, shards=1),
    "three odd parts": layout(head_size=700, shards=3),
}


@pytest.fixture(params=list(TIERS.values()), ids=list(TIERS))
async def tier(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Tier]:
    made: Tier = request.param(tmp_path)
    yield made
    await made.aclose()


@pytest.fixture(params=list(LAYOUTS.values()), ids=list(LAYOUTS))
def spec(request: pytest.FixtureRequest) -> SpaceSpec:
    return SpaceSpec(request.param, REGION_SLOTS)


@pytest.fixture
def space(tier: Tier, spec: SpaceSpec) -> Space:
    return tier.space(spec)


def memory(space: Space) -> memoryview:
    """Return page-aligned room for one block."""
    return memoryview(mmap.mmap(-1, space.spec.layout.block_bytes))


def key_of(slot: int) -> BlockKey:
    return BlockKey(slot.to_bytes(16, "big"))


def content(space: Space, seed: int) -> list[bytes]:
    """Return the parts of a block, as long as the engine has them."""
    parts = space.spec.layout.shards
    return [
        Random(f"{seed}.{part}").randbytes(space.spec.layout.part_bytes) for part in range(parts)
    ]


def block(space: Space, slot: int, seed: int) -> SlotWrite:
    source = memory(space)
    for part, data in enumerate(content(space, seed)):
        at = part * space.spec.layout.part_stride_bytes
        source[at : at + len(data)] = data
    return SlotWrite(slot, key_of(slot), key_of(slot - 1 if slot else 0), seed, source)


def wanted(space: Space, slot: int) -> SlotRead:
    return SlotRead(slot, key_of(slot), memory(space))


def parts_in(space: Space, read: SlotRead) -> list[bytes]:
    stride, size = space.spec.layout.part_stride_bytes, space.spec.layout.part_bytes
    starts = range(0, len(read.target), stride)
    return [bytes(read.target[at : at + size]) for at in starts]


async def test_reads_back_what_was_written(space: Space) -> None:
    await space.write([block(space, 2, seed=1)])
    read = wanted(space, 2)
    assert await space.read([read]) == [None]
    assert parts_in(space, read) == content(space, 1)


async def test_reads_back_neighbours_and_strangers_in_any_order(space: Space) -> None:
    slots = [9, 0, 3, 1, 2, 4, 5, 40, 11, 10]
    await space.write([block(space, slot, seed=slot) for slot in slots])
    together = [wanted(space, slot) for slot in reversed(slots)]
    assert await space.read(together) == [None] * len(slots)
    alone = [wanted(space, slot) for slot in slots]
    for read in alone:
        assert await space.read([read]) == [None]
    for read in together + alone:
        assert parts_in(space, read) == content(space, read.slot)


async def test_calls_without_blocks_do_nothing(space: Space) -> None:
    await space.write([])
    assert await space.read([]) == []
    await space.sync()


async def test_keeps_no_hold_on_the_callers_memory(space: Space) -> None:
    write = block(space, 0, seed=1)
    await space.write([write])
    write.source[:] = bytes(len(write.source))
    first, second = wanted(space, 0), wanted(space, 0)
    assert await space.read([first]) == [None]
    first.target[:] = bytes(len(first.target))
    assert await space.read([second]) == [None]
    assert parts_in(space, second) == content(space, 1)


async def test_a_block_replaces_the_one_before_it(space: Space) -> None:
    await space.write([block(space, slot, seed=1) for slot in range(3)])
    await space.write([block(space, 1, seed=2)])
    reads = [wanted(space, slot) for slot in range(3)]
    assert await space.read(reads) == [None] * 3
    assert [parts_in(space, read) for read in reads] == [content(space, s) for s in (1, 2, 1)]


async def test_prepared_regions_hold_blocks_like_any_other(space: Space) -> None:
    space.prepare(0)
    space.prepare(0)
    await space.write([block(space, 0, seed=1)])
    assert await space.read([wanted(space, 0)]) == [None]


async def test_a_reclaimed_region_can_be_used_again_and_others_stay(space: Space) -> None:
    await space.write([block(space, 0, seed=1), block(space, REGION_SLOTS, seed=2)])
    await space.sync()
    await space.reclaim(0)
    space.prepare(0)
    await space.write([block(space, 1, seed=3)])
    reads = [wanted(space, 1), wanted(space, REGION_SLOTS)]
    assert await space.read(reads) == [None, None]
    assert [parts_in(space, read) for read in reads] == [content(space, 3), content(space, 2)]


async def test_reclaiming_what_was_not_lent_is_fine(space: Space) -> None:
    await space.reclaim(3)


async def test_namespaces_do_not_see_one_another(tier: Tier) -> None:
    ours, theirs = (
        tier.space(SpaceSpec(layout(head_size, shards=1), REGION_SLOTS)) for head_size in (64, 65)
    )
    await ours.write([block(ours, 0, seed=1)])
    await theirs.write([block(theirs, 0, seed=2)])
    read = wanted(ours, 0)
    assert await ours.read([read]) == [None]
    assert parts_in(ours, read) == content(ours, 1)


async def test_equal_layouts_have_one_space(tier: Tier, spec: SpaceSpec) -> None:
    assert tier.space(spec) is tier.space(SpaceSpec(spec.layout, spec.region_slots))


async def test_a_probe_finds_nothing_wrong_and_changes_nothing(tier: Tier, space: Space) -> None:
    await space.write([block(space, 0, seed=1)])
    assert await tier.probe() == Probe()
    assert await tier.probe() == Probe()
    read = wanted(space, 0)
    assert await space.read([read]) == [None]
    assert parts_in(space, read) == content(space, 1)


async def test_closes_twice(tier: Tier, space: Space) -> None:
    await space.write([block(space, 0, seed=1)])
    await tier.aclose()
    await tier.aclose()


def test_the_layouts_cover_padding() -> None:
    paddings = [spec.part_stride_bytes - spec.part_bytes for spec in LAYOUTS.values()]
    assert paddings[0] == 0
    assert all(0 < padding < PAGE_BYTES for padding in paddings[1:])
