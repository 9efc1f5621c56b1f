"""Looks at copies that clients could not read, before they are given up.

A client's word alone costs nobody a block: what it could not read may be right, and it may lie.
What is found corrupt is reported, as by the scrubber; a medium that refuses or does not answer
is the mover's to note, as for any read.
"""

import asyncio
import logging
import mmap
from collections.abc import Callable, Sequence
from typing import Final

from tierd.control.catalog import Block
from tierd.control.events import CopyCorrupt
from tierd.transfer.mover import Mover, SpaceRow

_LOOKS_MAX: Final = 16
"""Copies looked at at once. What is reported beyond that is found by its next reader."""

log = logging.getLogger("tierd.doubts")


class Doubts:
    """Reads copies that are in doubt, each once at a time.

    Concurrency: belongs to the event loop of the mover; `close` ends it. It holds no lease: a
    slot may be written anew while it is read, which the block tells from damage.
    """

    def __init__(
        self, rows: Sequence[SpaceRow], mover: Mover, report: Callable[[CopyCorrupt], None]
    ) -> None:
        self._rows = rows
        self._mover = mover
        self._report = report
        self._looks: dict[tuple[bytes, int], asyncio.Task[None]] = {}

    def look(self, block: Block, tier: int) -> None:
        """Find out, in the background, whether the copy in `tier` is what it should be."""
        slot = block.slots[tier]
        place = (block.key, tier)
        if slot is None or place in self._looks or len(self._looks) == _LOOKS_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._look(block, tier, slot))
        self._looks[place] = task
        task.add_done_callback(lambda _: self._looks.pop(place))

    def close(self) -> None:
        """Look no more."""
        for task in self._looks.values():
            task.cancel()

    async def _look(self, block: Block, tier: int, slot: int) -> None:
        size = self._rows[block.namespace].spaces[tier].spec.layout.block_bytes
        # Its own: a medium that does not answer in time may write to it still.
        memory = memoryview(mmap.mmap(-1, size))
        fault = await self._mover.read_into(block.namespace, tier, slot, block.key, memory)
        if fault == "source" and block.slots[tier] == slot:
            log.warning("corrupt slot dropped: tier %d, slot %d, found by a client", tier, slot)
            self._report(CopyCorrupt(block.key, tier, slot))
