"""Eviction by how likely blocks of a kind are used again at their age."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.leaf_first import LeafFirst
from tierd_policies.ranking import Ranking

_AGES: Final = 32
"""Ages are counted in touches, and told apart by their binary logarithm."""

_REFRESH_EVENTS: Final = 64
"""A group of which less is known goes by what is known of all."""

_HALVE_EVENTS: Final = 1 << 15

Group = tuple[BlockClass, AgentState]
"""A kind of tokens, and what the agent does whose chain it is."""

_NEW: Final[Group] = ("unknown", "running")


class _Hazard:
    """What became of the blocks of one group, by age: used again, or evicted without.

    `density[a]` is the uses to expect for each touch that a block of age a is kept on.
    """

    def __init__(self) -> None:
        self.leaves = Ranking()
        self.density = [1.0] * _AGES
        self._used = [0.0] * _AGES
        self._ended = [0.0] * _AGES
        self.events = 0

    def count(self, age: int, *, used: bool) -> None:
        events = self._used if used else self._ended
        events[min(age.bit_length(), _AGES - 1)] += 1
        self.events += 1
        if self.events % _REFRESH_EVENTS == 0:
            self._refresh()
        if self.events >= _HALVE_EVENTS:
            self.events //= 2
            self._used = [count / 2 for count in self._used]
            self._ended = [count / 2 for count in self._ended]

    def _refresh(self) -> None:
        # From the oldest age down: what can still happen to a block that has come so far.
        kept = [
            (used + ended) * (1 << age)
            for age, (used, ended) in enumerate(zip(self._used, self._ended, strict=True))
        ]
        uses_ahead = list(accumulate(reversed(self._used)))[::-1]
        kept_ahead = list(accumulate(reversed(kept)))[::-1]
        self.density = [
            (uses + 1.0) / (touches + (1 << age))
            for age, (uses, touches) in enumerate(zip(uses_ahead, kept_ahead, strict=True))
        ]


class ClassHazard(LeafFirst):
    """Propose the leaf whose group, at its age, promises the fewest uses for being kept.

    Blocks are grouped by the kind of their tokens and the state of their agent, as notes tell.
    Within a group the least recently used leaf goes first, so without notes, or with one group,
    this is plain chain LRU. Of a group of which little is known the same is expected as of all,
    but nothing of a session that has ended.

    Units: O(1) a key, and O(log n) for the leaf; a victim costs O(groups), 24 at most.

    Source: the hit density of LHD (Beckmann, Chen and Cidon, NSDI 2018), with the classes of
    "KV cache in the wild" (Wang et al., ATC 2025).
    """

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[BlockKey, Group] = {}
        self._hazards: dict[Group, _Hazard] = {_NEW: _Hazard()}
        self._all = _Hazard()

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        for key in chain:
            if key in self._groups:
                self._count(key, used=True)
        super().touch(chain)

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        """Note what the blocks of `chain`, just touched, are, and what their agent does now."""
        for place, key in enumerate(chain):
            if key in self._groups:
                kind = classes[place] if place < len(classes) else self._groups[key][0]
                self._leave(key)
                self._groups[key] = (kind, state)
                self._hazards.setdefault((kind, state), _Hazard())
                if self._is_leaf(key):
                    self._place(key)

    def _age(self, key: BlockKey) -> int:
        return max(0, self._touches - self._touch_of(key))

    def _order(self) -> Iterator[BlockKey]:
        rows = [iter(hazard.leaves) for hazard in self._hazards.values()]
        heads = [(row, key) for row in rows if (key := next(row, None))]
        while heads:
            least = min(range(len(heads)), key=lambda at: self._promise(heads[at][1]))
            row, key = heads[least]
            yield key
            following = next(row, None)
            if following is None:
                del heads[least]
            else:
                heads[least] = (row, following)

    def _promise(self, key: BlockKey) -> tuple[float, int]:
        """Return the uses to expect for keeping a leaf; of equals the older goes first."""
        touch = self._touch_of(key)
        if touch < 0:
            return -1.0, touch
        group = self._groups[key]
        hazard = self._hazards[group]
        if hazard.events < _REFRESH_EVENTS:
            if group[1] == "session_ended":
                return 0.0, touch
            hazard = self._all
        return hazard.density[min(self._age(key).bit_length(), _AGES - 1)], touch

    def _count(self, key: BlockKey, *, used: bool) -> None:
        age = self._age(key)
        for hazard in (self._hazards[self._groups[key]], self._all):
            hazard.count(age, used=used)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        same_group = self._groups[parent] == self._groups[child]
        return same_group and not self._was_used_without(parent, child)

    def _insert(self, key: BlockKey) -> None:
        self._groups[key] = _NEW
        super()._insert(key)

    def _place(self, key: BlockKey) -> None:
        self._hazards[self._groups[key]].leaves.place(key, self._stamps[key])

    def _leave(self, key: BlockKey) -> None:
        self._hazards[self._groups[key]].leaves.discard(key)

    def _evict(self, key: BlockKey) -> None:
        self._count(key, used=False)

    def _remove(self, key: BlockKey) -> None:
        super()._remove(key)
        del self._groups[key]
