"""The host tier: shared memory that clients map. It is the entry tier: all bytes pass here."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from tierd.core.errors import CorruptSlot
from tierd.tiers.arena import Arena
from tierd.tiers.base import Probe, SlotRead, SlotWrite, SpaceSpec

PageLock = Callable[[int, int], None]


class HostSpace:
    """One namespace's slots in an arena of its own."""

    def __init__(self, spec: SpaceSpec, arena: Arena, background: ThreadPoolExecutor) -> None:
        self.spec = spec
        self.arena = arena
        self.slot_bytes = spec.layout.block_bytes
        self._region_bytes = spec.region_slots * self.slot_bytes
        self._background = background
        self._preparing: dict[int, Future[None]] = {}
        self._stop = Event()

    def view(self, slot: int) -> memoryview:
        """Return the bytes of a slot, in place."""
        return self.arena.view(slot * self.slot_bytes, self.slot_bytes)

    def prepare(self, region: int) -> None:
        """Fault the region's pages in, in the background."""
        if self._stop.is_set():
            return
        start, size = region * self._region_bytes, self._region_bytes
        populate = self.arena.populate
        self._preparing[region] = self._background.submit(populate, start, size, self._stop)

    async def write(self, writes: Sequence[SlotWrite]) -> None:
        """Copy every source into its slot."""
        await asyncio.to_thread(self._copy_in, writes)

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        """Copy every slot out. Memory is trusted: nothing is verified."""
        await asyncio.to_thread(self._copy_out, reads)
        return [None] * len(reads)

    async def sync(self) -> None:
        """Return at once: memory is as durable as it gets."""

    async def reclaim(self, region: int) -> None:
        """Give the region's pages back to the system."""
        preparing = self._preparing.pop(region, None)
        if preparing is not None and not preparing.cancel():
            await asyncio.wrap_future(preparing)
        await asyncio.to_thread(self.arena.punch, region * self._region_bytes, self._region_bytes)

    def close(self) -> None:
        """Stop what runs in the background, and unmap."""
        self._stop.set()
        self._background.submit(self.arena.close)

    def _copy_in(self, writes: Sequence[SlotWrite]) -> None:
        for write in writes:
            self.view(write.slot)[:] = write.source

    def _copy_out(self, reads: Sequence[SlotRead]) -> None:
        for read in reads:
            read.target[:] = self.view(read.slot)


class HostTier:
    """Shared memory of at most `bytes_max` bytes.

    `page_lock` is told the address and length of every arena, to page-lock it for a GPU.
    """

    medium = "shared memory"

    def __init__(self, name: str, bytes_max: int, page_lock: PageLock | None = None) -> None:
        self.name = name
        self._bytes_max = bytes_max
        self._page_lock = page_lock
        self._spaces: dict[bytes, HostSpace] = {}
        self._background = ThreadPoolExecutor(1, thread_name_prefix=f"tierd-{name}")

    def space(self, spec: SpaceSpec) -> HostSpace:
        """Return the space of `spec.layout`, the same one for equal fingerprints."""
        fingerprint = spec.layout.fingerprint
        if fingerprint not in self._spaces:
            region_bytes = spec.region_slots * spec.layout.block_bytes
            # At least one region is mapped, even where the tier is too small to ever lend it.
            size = max(1, self._bytes_max // region_bytes) * region_bytes
            arena = Arena(f"tierd-{self.name}", size)
            if self._page_lock is not None:
                self._background.submit(self._page_lock, arena.address(0), size)
            self._spaces[fingerprint] = HostSpace(spec, arena, self._background)
        return self._spaces[fingerprint]

    async def probe(self) -> Probe:
        """Find nothing wrong: memory that fails takes the process with it."""
        return Probe()

    async def aclose(self) -> None:
        """Give back every mapping and the thread. Safe to call twice."""
        for space in self._spaces.values():
            space.close()
        self._spaces.clear()
        await asyncio.to_thread(self._background.shutdown)
