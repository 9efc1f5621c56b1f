"""SIEVE eviction for prefix chains."""

from collections import OrderedDict
from collections.abc import Iterator

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst


class Sieve(LeafFirst):
    """Propose, from where the hand stands towards the newest, the first leaf not used since it
    was passed.

    The hand passes over used leaves and takes that mark from them; past the newest it goes on
    with the oldest. A use moves nothing. A block whose last child went stands where the hand
    is; it counts as used only if it was after that child.

    Units: O(1) a key; a mark is passed once for each time that it is set.

    Source: Zhang et al., "SIEVE is simpler than LRU" (NSDI 2024).
    """

    def __init__(self) -> None:
        super().__init__()
        self._ahead: OrderedDict[BlockKey, None] = OrderedDict()
        """From the hand to the newest."""
        self._passed: OrderedDict[BlockKey, None] = OrderedDict()
        """From the oldest to the hand."""
        self._used: set[BlockKey] = set()

    def _order(self) -> Iterator[BlockKey]:
        for queue in (self._ahead, self._passed):
            yield from (key for key in queue if key not in self._used)
        for queue in (self._ahead, self._passed):
            yield from (key for key in queue if key in self._used)

    def _place(self, key: BlockKey) -> None:
        self._ahead[key] = None

    def _leave(self, key: BlockKey) -> None:
        self._used.discard(key)
        self._ahead.pop(key, None)
        self._passed.pop(key, None)
        self._start_over()

    def _use(self, key: BlockKey) -> None:
        if self._is_leaf(key):
            self._used.add(key)

    def _uncover(self, key: BlockKey, child: BlockKey) -> None:
        self._ahead[key] = None
        self._ahead.move_to_end(key, last=False)
        if self._was_used_without(key, child):
            self._used.add(key)

    def _cool(self, key: BlockKey) -> None:
        if self._is_leaf(key):
            self._leave(key)
            self._ahead[key] = None
            self._ahead.move_to_end(key, last=False)

    def _evict(self, key: BlockKey) -> None:
        """Move the hand to `key`. What it passes without a mark was declined by the caller."""
        if not self._is_leaf(key):
            return
        while True:
            first = next(iter(self._ahead))
            if first in self._used:
                self._used.remove(first)
            elif first == key:
                return
            del self._ahead[first]
            self._passed[first] = None
            self._start_over()

    def _start_over(self) -> None:
        if not self._ahead:
            self._ahead, self._passed = self._passed, self._ahead
