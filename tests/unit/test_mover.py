"""The mover and the prober on a disk that stalls, fails, and comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from tests.unit.test_faulty import flip
from tierd.control import events as ev
from tierd.core.errors import CorruptSlot, TierOffline
from tierd.core.keys import BlockKey
from tierd.core.layouts import opaque_layout
from tierd.core.units import NS_PER_MS, NS_PER_S, PAGE_BYTES, MiB
from tierd.index.lmdb_index import IndexChange
from tierd.tiers.base import SlotRead, SpaceSpec
from tierd.tiers.disk import DiskTier
from tierd.tiers.faulty import NO_FAULTS, FaultRatios, FaultySpace, FaultyTier
from tierd.tiers.host import HostTier
from tierd.transfer.health import HealthLimits
from tierd.transfer.mover import Mover, Records, SpaceRow
from tierd.transfer.prober import Prober

HOST, DISK = 0, 1
SPEC = SpaceSpec(opaque_layout("moved", block_tokens=8, token_bytes=512), region_slots=8)
LIMITS = HealthLimits(faults_max=2, backoff_min_ns=NS_PER_MS, backoff_max_ns=4 * NS_PER_MS)

STALLED = FaultRatios(stalled=1.0)
REFUSED = FaultRatios(refused=1.0)
FULL = FaultRatios(full=1.0)


@dataclass
class Index:
    """Records in memory, on a medium that may be told to refuse. Commits write four pages."""

    refuses: bool = False
    writes_to: Path | None = None
    changes: list[IndexChange] = field(default_factory=list)

    def commit(self, changes: Sequence[IndexChange]) -> None:
        if self.refuses:
            raise TierOffline("index", "EIO")
        self.changes += changes
        if self.writes_to is not None:
            self.writes_to.write_bytes(bytes(4 * PAGE_BYTES))


class BadSector(FaultySpace):
    """A space that refuses whatever reads one of its bad slots."""

    bad_slots: Sequence[int] = ()

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        if any(read.slot in self.bad_slots for read in reads):
            raise TierOffline("disk", "EIO")
        return await super().read(reads)


class Rig:
    """A host tier, a disk that fails as it is told to, the mover between them, and a store's ear.

    A call that stalls goes on when `answer` is set.
    """

    def __init__(self, path: Path, stall_ns: int) -> None:
        self.answer = asyncio.Event()
        self.host = HostTier("host", bytes_max=1 * MiB)
        disk = DiskTier([path], threads=2)
        self.disk = FaultyTier(disk, Random(0), NO_FAULTS, self._stall, flip)
        self.space = self.host.space(SPEC)
        self.index = Index()
        self.heard: list[object] = []
        self._news = asyncio.Event()
        self.on_disk = BadSector(self.disk, disk.space(SPEC))
        row = SpaceRow(SPEC.layout.fingerprint, self.space, [self.space, self.on_disk])
        self.prober = Prober([self.host, self.disk], self._hear, stall_ns, LIMITS)
        indexes: dict[int, Records] = {DISK: self.index}
        headers = {DISK: PAGE_BYTES}
        self.mover = Mover([row], HOST, indexes, 1, self._hear, self.prober, headers)

    async def _stall(self) -> None:
        await self.answer.wait()

    def _hear(self, event: object) -> None:
        self.heard.append(event)
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when it holds, looking whenever the store is told something, and now and then."""
        async with asyncio.timeout(30.0):
            while not holds():
                self._news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 0.01)

    def move(self, *slots: int, source: int, target: int, urgency: ev.MoveClass = "demand") -> None:
        moves = [
            ev.Move(slot, 0, key_of(slot), SPEC.layout.root, source, slot, target, slot)
            for slot in slots
        ]
        self.mover.start(ev.StartMoves(urgency, tuple(moves)))

    def ends(self) -> dict[int, str | None]:
        done = [
            end for event in self.heard if isinstance(event, ev.MovesDone) for end in event.done
        ]
        return {end.move: end.fault for end in done}

    def told(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.heard)

    async def store(self, *slots: int) -> None:
        """Write blocks to the disk, and make the host forget them."""
        for slot in slots:
            self.space.view(slot)[:] = content_of(slot)
        self.move(*slots, source=HOST, target=DISK, urgency="write_back")
        await self.mover.idle()
        assert self.ends() == dict.fromkeys(slots)
        self.heard.clear()
        for slot in slots:
            self.space.view(slot)[:] = bytes(SPEC.layout.block_bytes)


@pytest.fixture
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, getattr(request, "param", 60 * NS_PER_S))
    yield made
    made.answer.set()
    made.disk.faults = NO_FAULTS
    await made.mover.idle()
    made.prober.close()
    await made.disk.aclose()
    await made.host.aclose()


impatient = pytest.mark.parametrize("rig", [NS_PER_MS], indirect=True)


def key_of(slot: int) -> BlockKey:
    return BlockKey((slot + 1).to_bytes(16, "big"))


def content_of(slot: int) -> bytes:
    return Random(slot).randbytes(SPEC.layout.block_bytes)


@impatient
async def test_a_read_that_stalls_is_told_of_and_ends_when_its_thread_comes_back(rig: Rig) -> None:
    rig.disk.faults = STALLED
    rig.move(1, 2, source=DISK, target=HOST)
    await rig.until(lambda: rig.told(ev.TierFaulted) and rig.told(ev.MovesStalled))
    assert ev.MovesStalled([1, 2]) in rig.heard
    assert rig.ends() == {}
    rig.answer.set()
    await rig.mover.idle()
    assert rig.ends() == {1: "source", 2: "source"}


@impatient
async def test_what_waits_behind_a_read_that_stalls_is_not_sent_after_it(rig: Rig) -> None:
    rig.disk.faults = STALLED
    rig.move(1, source=DISK, target=HOST)
    await rig.until(lambda: rig.told(ev.TierFaulted))
    rig.move(2, source=DISK, target=HOST)
    rig.move(3, source=HOST, target=DISK)
    await rig.until(lambda: rig.ends() == {2: "target", 3: "target"})


@impatient
async def test_a_write_that_stalls_leaves_the_tier_to_be_read(rig: Rig) -> None:
    rig.disk.faults = STALLED
    rig.move(1, source=HOST, target=DISK)
    await rig.until(lambda: rig.told(ev.TierReadOnly) and rig.told(ev.MovesStalled))
    rig.answer.set()
    await rig.mover.idle()
    assert rig.ends() == {1: None}, "late, and good all the same"
    assert [len(change.added) for change in rig.index.changes] == [1]


@impatient
async def test_a_remote_read_that_stalls_is_answered(rig: Rig) -> None:
    """Its memory is still written to, so that it must not be used for the next block."""
    rig.disk.faults = STALLED
    target = rig.space.view(0)
    assert await rig.mover.read_into(0, DISK, 1, key_of(1), target) == "target"


async def test_a_remote_read_says_whose_fault_it_is(rig: Rig) -> None:
    """A disk that refused a read was taken for a block that is corrupt, and the block dropped."""
    await rig.store(1)
    target = rig.space.view(0)
    assert await rig.mover.read_into(0, DISK, 1, key_of(1), target) is None
    assert bytes(target) == content_of(1)
    assert await rig.mover.read_into(0, DISK, 1, key_of(2), target) == "source"
    rig.disk.faults = REFUSED
    assert await rig.mover.read_into(0, DISK, 1, key_of(1), target) == "target"


@impatient
async def test_a_tier_that_does_not_even_answer_probes_comes_back_when_it_does(rig: Rig) -> None:
    rig.disk.faults = STALLED
    rig.move(1, source=DISK, target=HOST)
    await rig.until(lambda: rig.told(ev.TierFaulted))
    await rig.until(lambda: "probe" in rig.prober.cause(DISK))
    rig.disk.faults = NO_FAULTS
    rig.answer.set()
    await rig.until(lambda: rig.told(ev.TierRecovered))
    assert rig.prober.cause(DISK) == ""


async def test_a_disk_that_is_full_is_read_and_comes_back_when_there_is_room(rig: Rig) -> None:
    await rig.store(1)
    rig.disk.faults = FULL
    for slot in (2, 3):
        rig.move(slot, source=HOST, target=DISK)
    await rig.until(lambda: rig.told(ev.TierReadOnly))
    assert "No space left" in rig.prober.cause(DISK)
    rig.move(4, source=HOST, target=DISK)
    rig.move(1, source=DISK, target=HOST)
    await rig.mover.idle()
    assert rig.ends() == {1: None, 2: "target", 3: "target", 4: "target"}
    assert bytes(rig.space.view(1)) == content_of(1)
    assert rig.prober.faults(DISK) == 2, "what is not asked does not fail"
    rig.disk.faults = NO_FAULTS
    await rig.until(lambda: rig.told(ev.TierRecovered))


async def test_a_disk_that_fails_to_be_read_is_offline_until_it_answers(rig: Rig) -> None:
    await rig.store(1, 2)
    rig.disk.faults = REFUSED
    for slot in (1, 2):
        rig.move(slot, source=DISK, target=HOST)
    await rig.until(lambda: rig.told(ev.TierFaulted))
    rig.disk.faults = NO_FAULTS
    await rig.until(lambda: rig.told(ev.TierRecovered))
    rig.move(1, source=DISK, target=HOST)
    await rig.mover.idle()
    assert bytes(rig.space.view(1)) == content_of(1)


async def test_a_block_that_alone_cannot_be_read_is_lost_and_its_neighbours_are_not(
    rig: Rig,
) -> None:
    """It was promised, refused and promised again for ever: nobody could publish it anew."""
    await rig.store(1, 2, 3, 4)
    rig.on_disk.bad_slots = [3]
    rig.move(1, 2, 3, 4, source=DISK, target=HOST)
    await rig.mover.idle()
    assert rig.ends() == {1: None, 2: None, 3: "source", 4: None}
    assert not rig.told(ev.TierFaulted)


async def test_records_that_could_not_be_dropped_are_dropped_later(rig: Rig) -> None:
    """They were forgotten with the commit that failed: a restart found blocks that were gone."""
    rig.index.refuses = True
    rig.mover.drop_records(ev.DropRecords(0, DISK, (key_of(1),)))
    await rig.mover.flush_records()
    rig.mover.drop_records(ev.DropRecords(0, DISK, (key_of(2),)))
    rig.index.refuses = False
    await rig.mover.flush_records()
    assert [list(change.dropped) for change in rig.index.changes] == [[key_of(1), key_of(2)]]


async def test_an_index_that_refuses_makes_its_tier_read_only(rig: Rig) -> None:
    rig.index.refuses = True
    for slot in (1, 2):
        rig.move(slot, source=HOST, target=DISK)
    await rig.until(lambda: rig.told(ev.TierReadOnly))
    await rig.mover.idle()
    assert rig.ends() == {1: "target", 2: "target"}


async def test_what_is_written_is_counted_with_all_that_goes_with_it(rig: Rig) -> None:
    await rig.store(1, 2, 3)
    wear = rig.mover.wear[DISK]
    assert wear.payload_bytes == 3 * SPEC.layout.part_bytes
    assert wear.medium_bytes == 3 * (SPEC.layout.block_bytes + PAGE_BYTES)


async def test_so_is_what_the_index_writes(rig: Rig, tmp_path: Path) -> None:
    rig.index.writes_to = tmp_path / "records"
    await rig.store(1)
    blocks = SPEC.layout.block_bytes + PAGE_BYTES
    counted = rig.mover.wear[DISK].medium_bytes - blocks
    if not counted:
        pytest.skip("this file system is memory: the kernel counts nothing as written")
    # The kernel may count a page of the file system's own with them.
    assert 4 * PAGE_BYTES <= counted <= 8 * PAGE_BYTES


async def test_prefetch_gives_way_unless_somebody_waits_for_it(rig: Rig) -> None:
    slots = range(16)
    await rig.store(*slots)
    rig.move(*slots, source=DISK, target=HOST, urgency="prefetch")
    rig.mover.urge(ev.Urge((3, 4711)))
    await rig.mover.idle()
    rig.mover.urge(ev.Urge((3,)))
    assert rig.ends() == dict.fromkeys(slots)
