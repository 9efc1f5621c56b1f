"""Reads the blocks of one tier again and again, slowly, to find damage before a client does.

What is found corrupt is reported; the store gives up the copy, as it does for any reader.
"""

import asyncio
import logging
import mmap
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final

from tierd.control.catalog import Block, Catalog
from tierd.control.events import CopyCorrupt
from tierd.core.errors import TierOffline
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_S
from tierd.tiers.base import SlotRead
from tierd.transfer.mover import Mover, SpaceRow

_PASS_S_MIN: Final = 600.0
"""From the start of one pass to that of the next, at least: damage is rare."""

_YIELD_S_MAX: Final = 1.0
"""How long moves go first: busy or not, the scrubber gets on."""

log = logging.getLogger("tierd.scrubber")


class Scrubber:
    """Verifies the copies in `tier`, one after another, in the order in which they came.

    Units: reads `bytes_per_s` at most; `bytes_read` counts those so far.
    Concurrency: belongs to the event loop of the mover. Cancel `run` to end it. It holds no
    lease: a slot may be written anew while it reads, which the catalog tells from damage.
    """

    def __init__(
        self,
        catalog: Catalog,
        rows: Sequence[SpaceRow],
        tier: int,
        mover: Mover,
        report: Callable[[CopyCorrupt], None],
        bytes_per_s: int,
    ) -> None:
        self._catalog = catalog
        self._rows = rows
        self._tier = tier
        self._mover = mover
        self._report = report
        self._bytes_per_s = bytes_per_s
        self._memory = memoryview(b"")
        self.bytes_read = 0

    async def run(self) -> None:
        """Make one pass after another."""
        while True:
            began_ns = monotonic_ns()
            read, corrupt = await self.scrub()
            if read:
                log.info("%d blocks read, %d of them corrupt", read, corrupt)
            await asyncio.sleep(_PASS_S_MIN - (monotonic_ns() - began_ns) / NS_PER_S)

    async def scrub(self) -> tuple[int, int]:
        """Make one pass; return how many blocks were read, and how many of them were corrupt.

        A tier that does not answer ends the pass: those who need it find out for themselves.
        """
        read = corrupt = 0
        for key in list(self._catalog.blocks):
            if self._at_rest(key) is None:
                continue
            await self._give_way()
            block = self._at_rest(key)
            if block is None:
                continue
            try:
                is_right = await self._is_right(block)
            except TierOffline as error:
                log.warning("pass ended: %s", error)
                break
            read += 1
            corrupt += not is_right
        return read, corrupt

    def _at_rest(self, key: BlockKey) -> Block | None:
        """Return the block if it is in the tier and nobody reads it: who does, verifies it."""
        block = self._catalog.blocks.get(key)
        if block is None or block.slots[self._tier] is None or block in self._catalog.readers:
            return None
        return block

    async def _is_right(self, block: Block) -> bool:
        """Read one block, and take as long for it as the limit asks."""
        began_ns = monotonic_ns()
        slot = block.slots[self._tier]
        assert slot is not None
        space = self._rows[block.namespace].spaces[self._tier]
        size = space.spec.layout.block_bytes
        if size > len(self._memory):
            self._memory = memoryview(mmap.mmap(-1, size))
        [fault] = await space.read([SlotRead(slot, block.key, self._memory[:size])])
        self.bytes_read += size
        # It may have been evicted meanwhile, and the slot hold another block by now.
        is_right = fault is None or block.slots[self._tier] != slot
        if not is_right:
            log.warning("corrupt slot dropped: %s", fault)
            self._report(CopyCorrupt(block.key, self._tier, slot))
        took_s = (monotonic_ns() - began_ns) / NS_PER_S
        await asyncio.sleep(size / self._bytes_per_s - took_s)
        return is_right

    async def _give_way(self) -> None:
        try:
            async with asyncio.timeout(_YIELD_S_MAX):
                await self._mover.idle()
        except TimeoutError:
            return
