"""What the index writes: pages of a B+ tree that is copied on write, counted and not kept.

A commit writes every page that it changes anew, so few records cost many bytes: of the leaves
those that hold a changed record, which are any since keys are digests; above them the branches;
and a few pages of the tree itself.

Source: the format of LMDB (its `mdb.c`): nodes of 8 bytes and a pointer of 2 beside key and
value, pages of 4 KiB less 16, two thirds full after insertions at random.
"""

import math
from dataclasses import dataclass
from typing import Final

from tierd.core.units import PAGE_BYTES

_PAGE_ROOM: Final = (PAGE_BYTES - 16) * math.log(2)
_NODE_BYTES: Final = 8 + 2
_KEY_BYTES: Final = 32
_VALUE_BYTES: Final = 32
_RECORDS_A_LEAF: Final = int(_PAGE_ROOM / (_NODE_BYTES + _KEY_BYTES + _VALUE_BYTES))
_PAGES_A_BRANCH: Final = int(_PAGE_ROOM / (_NODE_BYTES + _KEY_BYTES))
_FIXED_PAGES: Final = 5
"""The meta page, the tree of trees, the one of small facts, and the list of free pages."""


@dataclass(slots=True)
class SimulatedIndex:
    """How many records there are, and which are to be dropped with the next commit."""

    records: int = 0
    dropped: int = 0

    def commit(self, added: int) -> int:
        """Add records, and drop those that wait for it; return how many bytes that writes."""
        changed = self.dropped + added
        if not changed:
            return 0
        self.records += added - self.dropped
        self.dropped = 0
        return commit_pages(changed, self.records + changed) * PAGE_BYTES


def commit_pages(changed: int, records: int) -> int:
    """Return how many pages a commit writes that changes so many of so many records."""
    pages = _FIXED_PAGES
    level = -(-records // _RECORDS_A_LEAF)
    while True:
        changed = math.ceil(level * (1 - (1 - 1 / level) ** changed))
        pages += changed
        if level == 1:
            return pages
        level = -(-level // _PAGES_A_BRANCH)
