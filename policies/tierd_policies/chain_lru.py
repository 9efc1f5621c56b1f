"""Least-recently-used eviction for prefix chains."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from tierd.core.keys import BlockKey


class ChainLRU:
    """Propose the least recently used block, and never a parent before its child.

    A lookup walks a chain from its root, so a block whose parent is gone can no longer be
    found: evicting the parent first would waste the child's slot. Touching a chain deepest
    block first keeps every parent warmer than its children. Plain recency order is then
    leaf-first, and no tree is needed.

    Source: the reverse-order free in vLLM's prefix-caching design notes.
    """

    def __init__(self) -> None:
        self._coldest_first: OrderedDict[BlockKey, None] = OrderedDict()

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        order = self._coldest_first
        for key in reversed(chain):
            order[key] = None
            order.move_to_end(key)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Propose the tracked keys of `chain`, root first and up to its end, before all others."""
        for key in chain:
            if key in self._coldest_first:
                self._coldest_first.move_to_end(key, last=False)

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        self._coldest_first.pop(key, None)

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys, next to evict first. Changes nothing: the caller disposes."""
        return iter(self._coldest_first)
