"""Least recently used in levels: what policies that know more than uses are made of."""

from collections.abc import Iterator, Sequence
from itertools import islice

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst
from tierd_policies.ranking import Ranking


class LeveledLru(LeafFirst):
    """Propose the lowest level first, and within a level the least recently used leaf.

    A level may have a quota, a share of all blocks: what is beyond it, the least recently used
    first, goes right after the lowest level. Quotas count leaves and others. What is used again
    in the lowest level leaves it.

    Units: O(1) a key, and O(log n) for the leaf.

    Source: segmented LRU (Karedla et al., 1994), with the segment told instead of guessed.
    """

    def __init__(self, quotas: Sequence[float], level_of_new: int) -> None:
        super().__init__()
        self._quotas = quotas
        self._level_of_new = level_of_new
        self._levels: dict[BlockKey, int] = {}
        self._sizes = [0 for _ in quotas]
        self._leaves = [Ranking() for _ in quotas]

    def _move(self, key: BlockKey, level: int) -> None:
        self._leave(key)
        self._sizes[self._levels[key]] -= 1
        self._levels[key] = level
        self._sizes[level] += 1
        if self._is_leaf(key):
            self._place(key)

    def _order(self) -> Iterator[BlockKey]:
        leaves = [iter(ranking) for ranking in self._leaves]
        yield from leaves[0]
        for level, quota in enumerate(self._quotas):
            beyond = self._sizes[level] - int(quota * len(self._parents))
            yield from islice(leaves[level], max(0, beyond))
        for rest in leaves:
            yield from rest

    def _place(self, key: BlockKey) -> None:
        self._leaves[self._levels[key]].place(key, self._stamps[key])

    def _leave(self, key: BlockKey) -> None:
        self._leaves[self._levels[key]].discard(key)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        same_level = self._levels[parent] == self._levels[child]
        return same_level and not self._was_used_without(parent, child)

    def _insert(self, key: BlockKey) -> None:
        self._levels[key] = self._level_of_new
        self._sizes[self._level_of_new] += 1
        super()._insert(key)

    def _use(self, key: BlockKey) -> None:
        if self._levels[key] == 0:
            self._move(key, self._level_of_new)
        else:
            super()._use(key)

    def _cool(self, key: BlockKey) -> None:
        self._move(key, 0)

    def _remove(self, key: BlockKey) -> None:
        super()._remove(key)
        self._sizes[self._levels.pop(key)] -= 1
