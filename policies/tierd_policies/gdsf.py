"""Greedy-dual eviction for prefix chains: by frequency and by the time to compute again."""

from collections.abc import Iterator

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst
from tierd_policies.ranking import Ranking


class Gdsf(LeafFirst):
    """Propose the leaf of least worth: its uses times the seconds to compute it again.

    A block at place p of its chain attends to all before it, so computing it takes
    `base_s` + `per_place_s` * p. The worth of the last victim is added to what is used or
    comes after it, so that what is not used ages. All blocks have one size.

    Units: only the ratio of the two times matters. The default, 1 : 0.001, doubles the cost of
    a block at place 1000. O(1) a key, and O(log n) for the leaf.

    Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency"
    (HP 1998); the cost that grows with the place is AsymCache's (arXiv 2606.02964).
    """

    def __init__(self, base_s: float = 1.0, per_place_s: float = 0.001) -> None:
        super().__init__()
        self._base_s = base_s
        self._per_place_s = per_place_s
        self._floor = 0.0
        self._uses: dict[BlockKey, int] = {}
        self._places: dict[BlockKey, int] = {}
        self._worth: dict[BlockKey, float] = {}
        self._leaves = Ranking()

    def _order(self) -> Iterator[BlockKey]:
        return iter(self._leaves)

    def _place(self, key: BlockKey) -> None:
        self._leaves.place(key, (self._worth[key], self._stamps[key]))

    def _leave(self, key: BlockKey) -> None:
        self._leaves.discard(key)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        return self._worth[parent] <= self._worth[child]

    def _insert(self, key: BlockKey) -> None:
        self._uses[key] = 0
        parent = self._parents[key]
        # A parent that is not tracked is one that no count can be taken from.
        self._places[key] = 0 if parent is None else self._places.get(parent, 0) + 1
        self._use(key)

    def _use(self, key: BlockKey) -> None:
        self._uses[key] += 1
        cost = self._base_s + self._per_place_s * self._places[key]
        self._worth[key] = self._floor + self._uses[key] * cost
        super()._use(key)

    def _cool(self, key: BlockKey) -> None:
        self._uses[key] = 0
        self._worth[key] = 0.0
        super()._cool(key)

    def _evict(self, key: BlockKey) -> None:
        self._floor = max(self._floor, self._worth[key])

    def _remove(self, key: BlockKey) -> None:
        del self._uses[key], self._places[key], self._worth[key]
        super()._remove(key)
