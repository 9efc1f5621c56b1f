"""Least-recently-used eviction for prefix chains."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

from tierd.core.keys import BlockKey

_NEXT_MIN: Final = 4096
"""Keys that `victims` looks up at once, where there are so many."""


class ChainLRU:
    """Propose the least recently used block, and never a parent before its child.

    A lookup walks a chain from its root, so a block whose parent is gone can no longer be
    found: evicting the parent first would waste the child's slot. Touching a chain deepest
    block first keeps every parent warmer than its children. Plain recency order is then
    leaf-first, and no tree is needed.

    A plain dict keeps order in less than half the memory of an OrderedDict, but nothing can be
    put at its front, and to find its first key it walks past all that were deleted there. So
    the coldest keys are in a small OrderedDict, which is filled from the dict many at once.

    Source: the reverse-order free in vLLM's prefix-caching design notes.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[BlockKey, None] = OrderedDict()
        self._later: dict[BlockKey, None] = {}

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        coldest, later = self._next, self._later
        for key in reversed(chain):
            later.pop(key, None)
            later[key] = None
        if coldest:
            for key in chain:
                coldest.pop(key, None)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Propose the tracked keys of `chain`, root first and up to its end, before all others."""
        for key in chain:
            if key in self._later:
                del self._later[key]
                self._next[key] = None
            if key in self._next:
                self._next.move_to_end(key, last=False)

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        self._next.pop(key, None)
        self._later.pop(key, None)

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys, next to evict first. Changes nothing: the caller disposes."""
        if len(self._next) < _NEXT_MIN:
            for key in list(islice(self._later, _NEXT_MIN)):
                del self._later[key]
                self._next[key] = None
        return chain(self._next, self._later)
