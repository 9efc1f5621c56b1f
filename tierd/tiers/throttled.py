"""A disk that reads no faster than it is told to: for benchmarks of two routes on one machine.

It wraps a real tier, and the bytes come from there; what is slowed down is their arrival. Writes
are as fast as they are.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic_ns

from tierd.core.errors import CorruptSlot
from tierd.core.pace import Pace
from tierd.core.units import NS_PER_S
from tierd.tiers.base import Probe, SlotRead, SlotWrite, SpaceSpec
from tierd.tiers.disk import DiskSpace, DiskTier


class ThrottledTier:
    """`inner`, with all reads of all namespaces queued at `bytes_per_s`."""

    def __init__(self, inner: DiskTier, bytes_per_s: int) -> None:
        self._inner = inner
        self._bytes_per_s = bytes_per_s
        self._pace = Pace(bytes_per_s)
        self._spaces: dict[bytes, ThrottledSpace] = {}

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def medium(self) -> str:
        return f"{self._inner.medium}, throttled to {self._bytes_per_s / 1e6:g} MB/s"

    def space(self, spec: SpaceSpec) -> "ThrottledSpace":
        """Return the space of `spec.layout`, the same one for equal fingerprints."""
        fingerprint = spec.layout.fingerprint
        if fingerprint not in self._spaces:
            self._spaces[fingerprint] = ThrottledSpace(self._inner.space(spec), self._pace)
        return self._spaces[fingerprint]

    async def probe(self) -> Probe:
        return await self._inner.probe()

    async def aclose(self) -> None:
        await self._inner.aclose()


class ThrottledSpace:
    """One namespace's slots in a throttled tier. Concurrency: as the space that it wraps."""

    def __init__(self, inner: DiskSpace, pace: Pace) -> None:
        self._inner = inner
        self._pace = pace

    @property
    def spec(self) -> SpaceSpec:
        return self._inner.spec

    def regions(self) -> set[int]:
        return self._inner.regions()

    def slot_offset(self, slot: int) -> int:
        return self._inner.slot_offset(slot)

    def open_segment(self, region: int) -> int:
        """Return the segment itself: who reads it is not slowed down here."""
        return self._inner.open_segment(region)

    def prepare(self, region: int) -> None:
        self._inner.prepare(region)

    async def write(self, writes: Sequence[SlotWrite]) -> None:
        await self._inner.write(writes)

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        """Read, and wait until a slower medium would have the bytes, too."""
        over_ns = self._pace.book(sum(len(read.target) for read in reads), monotonic_ns())
        faults = await self._inner.read(reads)
        await asyncio.sleep((over_ns - monotonic_ns()) / NS_PER_S)
        return faults

    async def sync(self) -> None:
        await self._inner.sync()

    async def reclaim(self, region: int) -> None:
        await self._inner.reclaim(region)
