"""Least-frequently-used eviction for prefix chains."""

from collections.abc import Iterator

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst
from tierd_policies.ranking import Ranking


class Lfu(LeafFirst):
    """Propose the leaf used least often since it came; of equals, the least recently used.

    Nothing ages, so what was popular stays: a reference to compare with, not a choice.

    Units: O(1) a key, and O(log n) for the leaf.

    Source: "in-cache LFU" of Podlipnig and Boeszoermenyi, "A survey of web cache replacement
    strategies" (ACM Computing Surveys 2003): a count goes with its key.
    """

    def __init__(self) -> None:
        super().__init__()
        self._uses: dict[BlockKey, int] = {}
        self._leaves = Ranking()

    def _order(self) -> Iterator[BlockKey]:
        return iter(self._leaves)

    def _place(self, key: BlockKey) -> None:
        self._leaves.place(key, (self._uses[key], self._stamps[key]))

    def _leave(self, key: BlockKey) -> None:
        self._leaves.discard(key)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        return self._uses[parent] <= self._uses[child]

    def _insert(self, key: BlockKey) -> None:
        self._uses[key] = 1
        super()._insert(key)

    def _use(self, key: BlockKey) -> None:
        self._uses[key] += 1
        super()._use(key)

    def _cool(self, key: BlockKey) -> None:
        self._uses[key] = 0
        super()._cool(key)

    def _remove(self, key: BlockKey) -> None:
        del self._uses[key]
        super()._remove(key)
