"""A tier that fails as mediums do, as often as it is told to: for tests and drills.

It wraps a real tier, so what it does wrong is found out by the code that finds out about real
faults. At ratios of 0 it is the tier that it wraps.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from errno import EIO, ENOSPC
from os import strerror
from random import Random

from tierd.core.errors import CorruptSlot, TierOffline
from tierd.tiers.base import Probe, SlotRead, SlotWrite, Space, SpaceSpec, Tier

Stall = Callable[[], Awaitable[None]]
Flip = Callable[[Space, int], None]


@dataclass(frozen=True, slots=True)
class FaultRatios:
    """How often something goes wrong, each of 1.

    Of calls: `stalled` ones take long, `refused` ones get EIO, and those that write get ENOSPC
    if the medium is `full`. Of writes that are said to have gone well: of a `torn` batch only
    the first blocks are stored, a `misdirected` block is stored in another slot of its region,
    and of a `flipped` one a bit is wrong.
    """

    stalled: float = 0.0
    refused: float = 0.0
    full: float = 0.0
    torn: float = 0.0
    misdirected: float = 0.0
    flipped: float = 0.0


NO_FAULTS = FaultRatios()


class FaultyTier:
    """`tier`, with faults drawn from `rng`.

    `stall` waits, for as long as a medium that does not answer; `flip` changes a bit of what the
    wrapped space stored in a slot. `faults` may be changed at any time.
    """

    def __init__(
        self, tier: Tier, rng: Random, faults: FaultRatios, stall: Stall, flip: Flip
    ) -> None:
        self.faults = faults
        self._tier = tier
        self._rng = rng
        self._stall = stall
        self._flip = flip
        self._spaces: dict[bytes, FaultySpace] = {}

    @property
    def name(self) -> str:
        return self._tier.name

    @property
    def medium(self) -> str:
        return f"{self._tier.medium}, faulty"

    def space(self, spec: SpaceSpec) -> "FaultySpace":
        """Return the space of `spec.layout`, the same one for equal fingerprints."""
        fingerprint = spec.layout.fingerprint
        if fingerprint not in self._spaces:
            self._spaces[fingerprint] = FaultySpace(self, self._tier.space(spec))
        return self._spaces[fingerprint]

    async def probe(self) -> Probe:
        """Probe the wrapped tier, unless this one stalls or refuses, as it would anything."""
        try:
            await self.begin()
        except TierOffline as error:
            return Probe(error.cause, error.cause)
        if self.happens(self.faults.full):
            return Probe(write_fault=strerror(ENOSPC))
        return await self._tier.probe()

    async def aclose(self) -> None:
        await self._tier.aclose()

    def happens(self, ratio: float) -> bool:
        """Draw whether something goes wrong that does so with `ratio`."""
        return self._rng.random() < ratio

    async def begin(self) -> None:
        """Stall or refuse, as every call may.

        Raises:
            TierOffline: nothing was read or written.
        """
        if self.happens(self.faults.stalled):
            await self._stall()
        if self.happens(self.faults.refused):
            raise TierOffline(self.name, strerror(EIO))

    def stored_of(self, writes: Sequence[SlotWrite]) -> Sequence[SlotWrite]:
        """Return what is stored of a batch: a torn one ends somewhere."""
        torn = bool(writes) and self.happens(self.faults.torn)
        return writes[: self._rng.randrange(len(writes))] if torn else writes

    def aimed(self, write: SlotWrite, region_slots: int) -> SlotWrite:
        """Return the write with the slot that it goes to."""
        if region_slots == 1 or not self.happens(self.faults.misdirected):
            return write
        first = write.slot // region_slots * region_slots
        step = self._rng.randrange(1, region_slots)
        return replace(write, slot=first + (write.slot - first + step) % region_slots)

    def spoil(self, space: Space, slot: int) -> None:
        """Flip a bit of what was stored, or do not."""
        if self.happens(self.faults.flipped):
            self._flip(space, slot)


class FaultySpace:
    """One namespace's slots in a faulty tier. Concurrency: as the space that it wraps."""

    def __init__(self, tier: FaultyTier, space: Space) -> None:
        self._tier = tier
        self._space = space

    @property
    def spec(self) -> SpaceSpec:
        return self._space.spec

    def prepare(self, region: int) -> None:
        self._space.prepare(region)

    async def write(self, writes: Sequence[SlotWrite]) -> None:
        """Store what the faults leave of the batch, and where they leave it."""
        await self._tier.begin()
        if self._tier.happens(self._tier.faults.full):
            raise TierOffline(self._tier.name, strerror(ENOSPC))
        region_slots = self.spec.region_slots
        stored = self._tier.stored_of(writes)
        aimed = [self._tier.aimed(write, region_slots) for write in stored]
        pairs = list(zip(stored, aimed, strict=True))
        await self._space.write([write for write, to in pairs if to is write])
        for write, to in pairs:
            if to is not write:
                await self._space.write([to])
        for to in aimed:
            self._tier.spoil(self._space, to.slot)

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        await self._tier.begin()
        return await self._space.read(reads)

    async def sync(self) -> None:
        await self._tier.begin()
        await self._space.sync()

    async def reclaim(self, region: int) -> None:
        """Give the region back, with the faults of the wrapped tier alone."""
        await self._space.reclaim(region)
