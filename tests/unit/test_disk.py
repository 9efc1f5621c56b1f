"""The disk tier on damaged, foreign, moved and full files: faults, and never wrong bytes."""

import asyncio
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tierd.core.errors import CorruptSlot, FormatMismatch, TierOffline
from tierd.core.keys import BlockKey
from tierd.core.layouts import opaque_layout
from tierd.core.slots import SegmentHeader, described, unpack_segment, verify
from tierd.tiers.base import Probe, SlotRead, SlotWrite, SpaceSpec
from tierd.tiers.disk import DiskSpace, DiskTier

LAYOUT = opaque_layout("disk", block_tokens=10, token_bytes=700)
SPEC = SpaceSpec(LAYOUT, region_slots=4)
OTHER = SpaceSpec(opaque_layout("other", block_tokens=10, token_bytes=700), region_slots=4)
ROOT = LAYOUT.root


def memory(fill: int = 0) -> memoryview:
    made = memoryview(mmap.mmap(-1, LAYOUT.block_bytes))
    made[:] = bytes([fill]) * len(made)
    return made


def key_of(slot: int) -> BlockKey:
    return BlockKey(slot.to_bytes(16, "big"))


def blocks(*slots: int) -> list[SlotWrite]:
    return [SlotWrite(slot, key_of(slot), ROOT, slot, memory(slot + 1)) for slot in slots]


def wanted(*slots: int) -> list[SlotRead]:
    return [SlotRead(slot, key_of(slot), memory()) for slot in slots]


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
async def tier(tmp_path: Path) -> AsyncIterator[DiskTier]:
    made = DiskTier([tmp_path], threads=2)
    yield made
    await made.aclose()


@pytest.fixture
def space(tier: DiskTier) -> DiskSpace:
    return tier.space(SPEC)


async def found_in(directory: Path, *slots: int) -> list[CorruptSlot | None]:
    """Read slots with a tier that starts now, and check what it calls good."""
    tier = DiskTier([directory], threads=2)
    reads = wanted(*slots)
    faults = await tier.space(SPEC).read(reads)
    await tier.aclose()
    for read, fault in zip(reads, faults, strict=True):
        good = read.target[: LAYOUT.part_bytes] == bytes([read.slot + 1]) * LAYOUT.part_bytes
        assert fault is not None or good
    return faults


async def test_another_blocks_key_is_a_fault_of_that_slot_alone(space: DiskSpace) -> None:
    await space.write(blocks(0, 1, 2))
    before, fault, after = await space.read(
        [*wanted(0), SlotRead(1, key_of(7), memory()), *wanted(2)]
    )
    assert (before, after) == (None, None)
    assert fault is not None
    assert (fault.tier, fault.slot) == ("disk", 1)
    assert fault.cause == f"block {key_of(1).hex()} is in the slot, not {key_of(7).hex()}"


async def test_a_slot_that_was_never_written_is_a_fault(space: DiskSpace) -> None:
    await space.write(blocks(1))
    never, good, nowhere = await space.read(wanted(0, 1, 99))
    assert never is not None
    assert never.cause == "there is no slot header"
    assert good is None
    assert nowhere is not None
    assert nowhere.cause == "its region has no segment"


async def test_a_reclaimed_region_holds_nothing(space: DiskSpace) -> None:
    await space.write(blocks(0, 1, 4))
    await space.reclaim(0)
    assert space.regions() == {1}
    assert [fault is None for fault in await space.read(wanted(0, 4))] == [False, True]
    await space.write(blocks(1))
    assert [fault is None for fault in await space.read(wanted(0, 1))] == [False, True]


async def test_cancelled_calls_let_go_of_the_callers_memory(
    tier: DiskTier, space: DiskSpace
) -> None:
    await space.write(blocks(*range(32)))
    reads = wanted(*range(32))
    calls = [
        asyncio.ensure_future(space.read(reads)),
        asyncio.ensure_future(space.write(blocks(*range(40, 60)))),
    ]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    for read in reads:
        read.target[:] = bytes(len(read.target))
    assert await space.read(wanted(*range(32))) == [None] * 32
    await tier.aclose()
    assert not any(any(read.target) for read in reads)


async def test_a_segment_that_cannot_be_removed_keeps_its_region(tmp_path: Path) -> None:
    """Were the region made anew in another directory, a restart could take the old file."""
    directories = [tmp_path / "one", tmp_path / "two"]
    tier = DiskTier(directories, threads=1)
    space = tier.space(SPEC)
    await space.write(blocks(0))
    path = space.segment_path(0)
    path.unlink()
    path.mkdir()
    with pytest.raises(TierOffline):
        await space.reclaim(0)
    assert space.regions() == {0}
    assert space.segment_path(0) == path
    await tier.aclose()


async def test_a_flipped_payload_byte_is_found(space: DiskSpace, tmp_path: Path) -> None:
    await space.write(blocks(0, 1, 2))
    flip(space.segment_path(0), space.slot_offset(1) + 4096 + 6999)
    before, fault, after = await found_in(tmp_path, 0, 1, 2)
    assert (before, after) == (None, None)
    assert fault is not None
    assert fault.slot == 1
    assert "part 0 has checksum" in fault.cause


async def test_a_flipped_header_byte_is_found(space: DiskSpace, tmp_path: Path) -> None:
    await space.write(blocks(0, 1, 2))
    flip(space.segment_path(0), space.slot_offset(1) + 200)
    before, fault, after = await found_in(tmp_path, 0, 1, 2)
    assert (before, after) == (None, None)
    assert fault is not None
    assert "slot header has checksum" in fault.cause


@pytest.mark.parametrize("cut", [0, 1, 100, 4096, 4097, 8192, 9000])
async def test_a_truncated_segment_is_a_fault(space: DiskSpace, tmp_path: Path, cut: int) -> None:
    await space.write(blocks(0, 1, 2))
    os.truncate(space.segment_path(0), space.slot_offset(1) + cut)
    before, fault, after = await found_in(tmp_path, 0, 1, 2)
    assert before is None
    assert fault is not None
    assert "ends before the slot does" in fault.cause
    assert after is not None


async def test_a_segment_that_vanished_is_a_fault_of_its_slots(space: DiskSpace) -> None:
    await space.write(blocks(0, 4))
    space.segment_path(0).unlink()
    gone, fault = await space.read(wanted(0, 4))
    assert isinstance(gone, CorruptSlot)
    assert fault is None


async def test_a_segment_that_somebody_removed_is_made_anew(
    tier: DiskTier, space: DiskSpace
) -> None:
    """A tier that had lost one file was offline until the restart: every write to its region
    failed, and probes took the file's absence for the medium's."""
    await space.write(blocks(0, 1, 5))
    space.segment_path(0).unlink()
    with pytest.raises(TierOffline):
        await space.write(blocks(2))
    assert await tier.probe() == Probe()
    await space.write(blocks(2))
    await space.sync()
    faults = await space.read(wanted(0, 2, 5))
    assert [fault is None for fault in faults] == [False, True, True]


async def test_reopening_finds_the_regions(tmp_path: Path) -> None:
    directories = [tmp_path / "one", tmp_path / "two"]
    tier = DiskTier(directories, threads=1)
    space = tier.space(SPEC)
    await space.write(blocks(0, 5, 9, 13))
    await space.sync()
    await space.reclaim(1)
    await tier.aclose()
    again = DiskTier(directories[::-1], threads=1)
    found = again.space(SPEC)
    assert found.regions() == {0, 2, 3}
    assert await found.read(wanted(0, 9, 13)) == [None] * 3
    await again.aclose()


async def test_segments_are_spread_over_the_directories(tmp_path: Path) -> None:
    directories = [tmp_path / "one", tmp_path / "two"]
    for regions, counts in (((0, 1, 2), [2, 1]), ((3,), [2, 2]), ((4, 5), [3, 3])):
        tier = DiskTier(directories, threads=1)
        await tier.space(SPEC).write(blocks(*(region * 4 for region in regions)))
        await tier.aclose()
        assert [len(list(directory.iterdir())) for directory in directories] == counts


async def test_regions_are_dealt_to_the_directories_in_turn(tmp_path: Path) -> None:
    directories = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    tier = DiskTier(directories, threads=1)
    space, other = tier.space(SPEC), tier.space(OTHER)
    for region in range(6):
        await space.write(blocks(4 * region))
        assert space.segment_path(region).parent == directories[region % 3]
    # Where all have as many, it is the region's number that counts.
    other.prepare(4)
    assert other.segment_path(4).parent == directories[1]
    # Where not, the directory with the fewest comes first.
    await space.reclaim(2)
    space.prepare(6)
    assert space.segment_path(6).parent == directories[2]
    await tier.aclose()


async def test_foreign_files_are_left_alone(space: DiskSpace, tmp_path: Path) -> None:
    await space.write(blocks(0))
    strangers = [
        tmp_path / "notes.txt",
        space.segment_path(0).with_name("f" * 32 + "-000000.segment"),
    ]
    for stranger in strangers:
        stranger.write_bytes(b"not ours")
    assert await found_in(tmp_path, 0) == [None]
    assert all(stranger.read_bytes() == b"not ours" for stranger in strangers)


async def test_a_segment_that_was_never_finished_is_removed(tmp_path: Path) -> None:
    unfinished = tmp_path / f"{LAYOUT.fingerprint.hex()}-000000.segment.new"
    unfinished.write_bytes(bytes(4096))
    tier = DiskTier([tmp_path], threads=1)
    assert not unfinished.exists()
    assert tier.space(SPEC).regions() == set()
    await tier.aclose()


async def test_another_format_version_is_refused(space: DiskSpace, tmp_path: Path) -> None:
    await space.write(blocks(0))
    flip(space.segment_path(0), 9)
    with pytest.raises(FormatMismatch, match="format version 258"):
        DiskTier([tmp_path], threads=1)


async def test_another_region_size_is_refused(space: DiskSpace, tmp_path: Path) -> None:
    await space.write(blocks(0))
    tier = DiskTier([tmp_path], threads=1)
    with pytest.raises(FormatMismatch, match="4 slots"):
        tier.space(SpaceSpec(LAYOUT, region_slots=8))
    await tier.aclose()


async def test_a_segment_names_its_namespace(tmp_path: Path) -> None:
    for name in ("chat", "renamed"):
        tier = DiskTier([tmp_path], threads=1)
        space = tier.space(SpaceSpec(LAYOUT, 4, name))
        await space.write(blocks(0))
        header = unpack_segment(memoryview(space.segment_path(0).read_bytes()[:4096]))
        assert isinstance(header, SegmentHeader)
        assert described(header) == ("chat", LAYOUT), "the name when it was made"
        await tier.aclose()


async def test_a_lost_directory_is_a_fault_until_it_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "device"
    tier = DiskTier([directory], threads=1)
    space = tier.space(SPEC)
    directory.rmdir()
    with pytest.raises(TierOffline, match="No such file"):
        await space.write(blocks(0))
    assert space.regions() == set()
    directory.mkdir()
    await space.write(blocks(0))
    assert await space.read(wanted(0)) == [None]
    await tier.aclose()


def files_under(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


async def test_a_probe_says_what_is_wrong_and_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "there"
    tier = DiskTier([tmp_path / "other", directory], threads=1)
    await tier.space(SPEC).write(blocks(0))
    held = files_under(tmp_path)
    assert await tier.probe() == Probe()
    assert files_under(tmp_path) == held
    directory.rename(tmp_path / "gone")
    probe = await tier.probe()
    assert probe.read_fault is not None
    assert probe.write_fault is not None
    assert str(directory) in probe.read_fault
    (tmp_path / "gone").rename(directory)
    assert await tier.probe() == Probe()
    await tier.aclose()


async def test_a_directory_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TierOffline, match="file"):
        DiskTier([tmp_path / "file"], threads=1)


@pytest.fixture
def memory_directory() -> Iterator[Path]:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("no file system in memory")
    directory = Path(tempfile.mkdtemp(dir=shared))
    yield directory
    shutil.rmtree(directory)


async def test_a_full_file_system_is_a_fault_that_says_so(memory_directory: Path) -> None:
    """On a file system in memory, because there a size beyond its own is refused at once."""
    facts = os.statvfs(memory_directory)
    slots = 2 * facts.f_blocks * facts.f_frsize // LAYOUT.block_bytes
    tier = DiskTier([memory_directory], threads=1)
    space = tier.space(SpaceSpec(LAYOUT, slots))
    space.prepare(0)
    with pytest.raises(TierOffline, match="no space left for a segment of"):
        await space.write(blocks(0))
    assert os.listdir(memory_directory) == []
    await tier.aclose()


async def test_works_where_the_page_cache_cannot_be_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel_open = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return kernel_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    tier = DiskTier([tmp_path], threads=1)
    assert "does not take O_DIRECT" in caplog.text
    space = tier.space(SPEC)
    await space.write(blocks(0, 1))
    await space.sync()
    assert await space.read(wanted(0, 1)) == [None, None]
    await tier.aclose()


async def test_others_read_a_slot_by_descriptor_and_offset(space: DiskSpace) -> None:
    await space.write(blocks(4, 5))
    fd = space.open_segment(1)
    page, payload = memoryview(mmap.mmap(-1, 4096)), memory()
    assert os.preadv(fd, [page, payload], space.slot_offset(5)) == 4096 + LAYOUT.block_bytes
    assert verify(page, payload, key_of(5), LAYOUT) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, page)
    os.close(fd)


async def test_a_region_that_moves_is_not_found_where_it_was(tmp_path: Path) -> None:
    directories = [tmp_path / "one", tmp_path / "two"]
    tier = DiskTier(directories, threads=1)
    space = tier.space(SPEC)
    await space.write(blocks(0, 4, 8))
    await space.reclaim(0)
    await space.reclaim(8 // 4)
    space.prepare(0)
    await space.write(blocks(1))
    assert await space.read(wanted(1, 4)) == [None, None]
    names = [path.name for directory in directories for path in directory.iterdir()]
    assert len(names) == len(set(names)) == 2
    await tier.aclose()


async def test_a_region_is_lent_again_while_it_is_reclaimed(space: DiskSpace) -> None:
    for _ in range(20):
        await space.write(blocks(0))
        await asyncio.gather(space.reclaim(0), space.write(blocks(1)))
        gone, fault = await space.read(wanted(0, 1))
        assert gone is not None
        assert fault is None


async def test_every_sync_waits_for_what_was_written_before_it(space: DiskSpace) -> None:
    await space.write(blocks(0, 4))
    await asyncio.gather(space.sync(), space.sync(), space.sync())


async def test_a_region_may_be_reclaimed_while_it_is_synced(space: DiskSpace) -> None:
    for _ in range(20):
        await space.write(blocks(0))
        await asyncio.gather(space.sync(), space.reclaim(0))


async def test_a_failed_sync_is_not_forgotten(tmp_path: Path) -> None:
    directory = tmp_path / "device"
    tier = DiskTier([directory], threads=1)
    space = tier.space(SPEC)
    await space.write(blocks(0))
    await space.sync()
    await space.write(blocks(0))
    directory.rename(tmp_path / "gone")
    for _ in range(2):
        with pytest.raises(TierOffline):
            await space.sync()
    (tmp_path / "gone").rename(directory)
    await space.sync()
    await tier.aclose()


async def test_keeps_no_descriptor_open(space: DiskSpace) -> None:
    before = len(os.listdir("/proc/self/fd"))
    await space.write(blocks(*range(32)))
    await space.sync()
    await space.read(wanted(*range(32)))
    await space.reclaim(0)
    assert len(os.listdir("/proc/self/fd")) == before
