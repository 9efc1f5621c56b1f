"""W-TinyLFU eviction for prefix chains: newcomers must earn their place in the main part."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst
from tierd_policies.ranking import Ranking
from tierd_policies.sketch import FrequencySketch

_WINDOW_RATIO: Final = 0.01
_PROTECTED_RATIO: Final = 0.8


class _Part(IntEnum):
    WINDOW = 0
    PROBATION = 1
    PROTECTED = 2


class WTinyLfu(LeafFirst):
    """Let the oldest of the window and the oldest of the main part compete by frequency.

    New blocks enter the window, a hundredth of the blocks. When it is over that, its least
    recently used leaf moves to the main part if it was seen more often than what would go
    there; the loser is the victim. In the main part a use moves a block from probation to the
    protected four fifths. A block is in no colder part than its children.

    Units: O(1) a key, and O(log n) for the leaf.

    Source: Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy"
    (ACM ToS 2017).
    """

    def __init__(self, window_ratio: float = _WINDOW_RATIO) -> None:
        super().__init__()
        self._window_ratio = window_ratio
        self._sketch = FrequencySketch()
        self._parts: dict[BlockKey, _Part] = {}
        self._sizes = [0, 0, 0]
        self._leaves = [Ranking(), Ranking(), Ranking()]
        self._capacity = 0
        self._evicted_at = 0

    def _order(self) -> Iterator[BlockKey]:
        window, probation, protected = (iter(leaves) for leaves in self._leaves)
        challenger, resident = next(window, None), next(probation, None)
        over = self._window_excess()
        while over > 0 and challenger is not None and resident is not None:
            if self._sketch.count(challenger) > self._sketch.count(resident):
                yield resident
                resident = next(probation, None)
            else:
                yield challenger
                challenger = next(window, None)
            over -= 1
        yield from (key for key in (resident, *probation) if key is not None)
        yield from protected
        yield from (key for key in (challenger, *window) if key is not None)

    def _window_excess(self) -> int:
        # One more will come for each that goes.
        return self._sizes[_Part.WINDOW] + 1 - max(1, int(len(self._parts) * self._window_ratio))

    def _place(self, key: BlockKey) -> None:
        self._leaves[self._parts[key]].place(key, self._stamps[key])

    def _leave(self, key: BlockKey) -> None:
        self._leaves[self._parts[key]].discard(key)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        same_part = self._parts[parent] == self._parts[child]
        return same_part and not self._was_used_without(parent, child)

    def _insert(self, key: BlockKey) -> None:
        self._sketch.grow(len(self._parents))
        self._sketch.see(key)
        self._parts[key] = _Part.WINDOW
        self._sizes[_Part.WINDOW] += 1
        super()._insert(key)
        if len(self._parents) > self._capacity:
            self._drain_window()

    def _drain_window(self) -> None:
        """Let what is beyond the window's size into the main part: there was room for all."""
        while self._window_excess() > 1:
            coldest = next(iter(self._leaves[_Part.WINDOW]), None)
            if coldest is None:
                return
            self._raise(coldest, _Part.PROBATION)

    def _use(self, key: BlockKey) -> None:
        self._sketch.see(key)
        if self._parts[key] == _Part.PROBATION:
            self._raise(key, _Part.PROTECTED)
            self._shrink_protected()
        super()._use(key)

    def _move(self, key: BlockKey, part: _Part) -> None:
        self._leave(key)
        self._sizes[self._parts[key]] -= 1
        self._parts[key] = part
        self._sizes[part] += 1
        if self._is_leaf(key):
            self._place(key)

    def _raise(self, key: BlockKey, part: _Part) -> None:
        """Move `key` and its ancestors up to `part`, where they are not yet."""
        above: BlockKey | None = key
        while above is not None and above in self._parts and self._parts[above] < part:
            self._move(above, part)
            above = self._parents[above]

    def _shrink_protected(self) -> None:
        main = self._sizes[_Part.PROBATION] + self._sizes[_Part.PROTECTED]
        while self._sizes[_Part.PROTECTED] > main * _PROTECTED_RATIO:
            coldest = next(iter(self._leaves[_Part.PROTECTED]), None)
            if coldest is None:
                return
            self._move(coldest, _Part.PROBATION)

    def _cool(self, key: BlockKey) -> None:
        self._move(key, _Part.PROBATION)

    def _evict(self, key: BlockKey) -> None:
        """If `key` lost to the oldest of the window, that moves to the main part."""
        if self._evicted_at != self._touches:
            # The first since something came: now all places are taken.
            self._capacity, self._evicted_at = len(self._parents), self._touches
        challenger = next(iter(self._leaves[_Part.WINDOW]), None)
        if challenger is None or self._parts[key] == _Part.WINDOW or self._window_excess() <= 0:
            return
        if self._sketch.count(challenger) > self._sketch.count(key):
            self._raise(challenger, _Part.PROBATION)

    def _remove(self, key: BlockKey) -> None:
        super()._remove(key)
        self._sizes[self._parts.pop(key)] -= 1
