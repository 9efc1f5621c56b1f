"""The mover on a disk that fails in every way: each block comes back right, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest

from tests.unit.test_faulty import flip
from tierd.control import events as ev
from tierd.core.keys import BlockKey
from tierd.core.layouts import opaque_layout
from tierd.core.units import MiB
from tierd.index.lmdb_index import IndexChange
from tierd.tiers.base import SpaceSpec
from tierd.tiers.disk import DiskTier
from tierd.tiers.faulty import NO_FAULTS, FaultRatios, FaultyTier
from tierd.tiers.host import HostTier
from tierd.transfer.health import HealthLimits
from tierd.transfer.mover import Mover, SpaceRow
from tierd.transfer.prober import Prober

HOST, DISK = 0, 1
SPEC = SpaceSpec(opaque_layout("faulty", block_tokens=8, token_bytes=512), region_slots=8)
SLOTS = range(64)
BATCH = 4

FAULTS = FaultRatios(stalled=0.1, refused=0.1, full=0.1, torn=0.1, misdirected=0.05, flipped=0.05)


class Index:
    """Records, in memory."""

    def __init__(self) -> None:
        self.slots: dict[BlockKey, int] = {}

    def commit(self, changes: Sequence[IndexChange]) -> None:
        for change in changes:
            self.slots.update((record.key, record.slot) for record in change.added)


class Rig:
    """A host tier, a faulty disk, and the mover between them."""

    def __init__(self, path: Path, seed: int) -> None:
        self.host = HostTier("host", bytes_max=1 * MiB)
        disk = DiskTier([path], threads=1)
        self.disk = FaultyTier(disk, Random(seed), FAULTS, lambda: asyncio.sleep(0), flip)
        self.space = self.host.space(SPEC)
        self.index = Index()
        self.ends: dict[int, ev.MoveDone] = {}
        row = SpaceRow(SPEC.layout.fingerprint, self.space, [self.space, self.disk.space(SPEC)])
        # However much goes wrong, it is asked again: the states of a tier are not the subject.
        patient = HealthLimits(faults_max=10**6)
        prober = Prober([self.host, self.disk], lambda _: None, limits=patient)
        self.mover = Mover([row], HOST, {DISK: self.index}, 1, self._note, prober, {})

    def _note(self, ends: ev.MovesDone | ev.MovesStalled) -> None:
        assert isinstance(ends, ev.MovesDone)
        self.ends.update((end.move, end) for end in ends.done)

    async def move_all(self, source: int, target: int) -> dict[int, ev.MoveDone]:
        """Move every slot, a batch at a time, and return the ends."""
        self.ends.clear()
        for first in SLOTS[::BATCH]:
            moves = tuple(
                ev.Move(slot, 0, key_of(slot), SPEC.layout.root, source, slot, target, slot)
                for slot in range(first, first + BATCH)
            )
            self.mover.start(ev.StartMoves("demand", moves))
        await self.mover.idle()
        return dict(self.ends)


@pytest.fixture(params=range(4))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    await made.disk.aclose()
    await made.host.aclose()


def key_of(slot: int) -> BlockKey:
    return BlockKey((slot + 1).to_bytes(16, "big"))


def content_of(slot: int) -> bytes:
    return Random(slot).randbytes(SPEC.layout.block_bytes)


async def test_what_a_faulty_disk_gives_back_is_right(rig: Rig) -> None:
    for slot in SLOTS:
        rig.space.view(slot)[:] = content_of(slot)
    written = await rig.move_all(HOST, DISK)
    assert set(written) == set(SLOTS)
    stored = {slot for slot, end in written.items() if end.fault is None}
    assert rig.index.slots == {key_of(slot): slot for slot in stored}, "a record of nothing"
    for slot in SLOTS:
        rig.space.view(slot)[:] = bytes(SPEC.layout.block_bytes)
    rig.disk.faults = NO_FAULTS
    read = await rig.move_all(DISK, HOST)
    right = {slot for slot, end in read.items() if end.fault is None}
    for slot in right:
        assert bytes(rig.space.view(slot)) == content_of(slot)
    assert right
    assert stored - right, "all that was stored was right: the faults did nothing"
    assert {read[slot].fault for slot in stored - right} == {"source"}
