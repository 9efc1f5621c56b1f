"""ARC eviction for prefix chains: recency and frequency, balanced by what was missed."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst
from tierd_policies.ranking import Ranking

_NO_GHOST: Final = 0
_ONCE_GHOST: Final = 1
_OFTEN_GHOST: Final = 2


class Arc(LeafFirst):
    """Keep blocks used once and blocks used more in two lists, each least recently used first.

    `target` is how many blocks the first list should have. Both remember their victims as
    ghosts; a miss that hits a ghost says that its list was too short. Sizes count all blocks,
    the lists hold the leaves. A tier that evicts is full, so what is tracked then is its
    capacity.

    Who calls `missed` before it makes room has the classic order of things; without it the
    target moves after the eviction that a miss leads to.

    Units: O(1) a key, and O(log n) for the leaf; as many ghosts as blocks.

    Source: Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache" (FAST 2003).
    """

    def __init__(self) -> None:
        super().__init__()
        self._once = Ranking()
        self._often = Ranking()
        self._used_often: set[BlockKey] = set()
        """Leaves and others."""
        self._once_ghosts: OrderedDict[BlockKey, None] = OrderedDict()
        self._often_ghosts: OrderedDict[BlockKey, None] = OrderedDict()
        self._target = 0.0
        self._capacity = 0
        self._returning: OrderedDict[BlockKey, None] = OrderedDict()
        """Missed ghosts, which may be inserted next."""
        self._missed_last = _NO_GHOST

    def missed(self, keys: Sequence[BlockKey]) -> None:
        """Note that `keys` were asked for and not there, so that they may come next."""
        self._missed_last = _NO_GHOST
        for key in keys:
            self._recall(key)
        while len(self._returning) > self._capacity:
            self._returning.popitem(last=False)

    def _recall(self, key: BlockKey) -> None:
        once, often = len(self._once_ghosts), len(self._often_ghosts)
        if key in self._once_ghosts:
            self._target = min(self._target + max(often / once, 1), self._capacity)
            del self._once_ghosts[key]
            self._returning[key] = None
            self._missed_last = _ONCE_GHOST
        elif key in self._often_ghosts:
            self._target = max(self._target - max(once / often, 1), 0)
            del self._often_ghosts[key]
            self._returning[key] = None
            self._missed_last = _OFTEN_GHOST

    def _order(self) -> Iterator[BlockKey]:
        once, often = iter(self._once), iter(self._often)
        count = len(self._parents) - len(self._used_often)
        is_new = self._missed_last == _NO_GHOST
        if is_new and not self._once_ghosts and count == len(self._parents):
            yield from once
        for _ in range(len(self._once) + len(self._often)):
            too_many = count > self._target or (
                count == self._target and self._missed_last == _OFTEN_GHOST
            )
            key = next(once if too_many and count else often, None)
            if key is None:
                break
            count -= key not in self._used_often
            yield key
        yield from once
        yield from often

    def _place(self, key: BlockKey) -> None:
        self._list(key).place(key, self._stamps[key])

    def _leave(self, key: BlockKey) -> None:
        self._list(key).discard(key)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        same_list = (parent in self._used_often) == (child in self._used_often)
        return same_list and not self._was_used_without(parent, child)

    def _insert(self, key: BlockKey) -> None:
        self._recall(key)
        if key in self._returning:
            del self._returning[key]
            self._used_often.add(key)
            self._missed_last = _NO_GHOST
        super()._insert(key)

    def _use(self, key: BlockKey) -> None:
        self._once.discard(key)
        self._used_often.add(key)
        super()._use(key)

    def _list(self, key: BlockKey) -> Ranking:
        return self._often if key in self._used_often else self._once

    def _cool(self, key: BlockKey) -> None:
        self._leave(key)
        self._used_often.discard(key)
        super()._cool(key)

    def _evict(self, key: BlockKey) -> None:
        self._capacity = len(self._parents)
        once = self._capacity - len(self._used_often)
        if self._missed_last == _NO_GHOST:
            if once == self._capacity and not self._once_ghosts:
                return
            self._trim_ghosts(once)
        ghosts = self._often_ghosts if key in self._used_often else self._once_ghosts
        ghosts[key] = None

    def _trim_ghosts(self, once: int) -> None:
        """Make room for one more ghost: both lists with theirs are twice the capacity at most."""
        trimmed = False
        while once + len(self._once_ghosts) >= self._capacity and self._once_ghosts:
            self._once_ghosts.popitem(last=False)
            trimmed = True
        ghosts = len(self._once_ghosts) + len(self._often_ghosts)
        while not trimmed and ghosts >= self._capacity and self._often_ghosts:
            self._often_ghosts.popitem(last=False)
            ghosts -= 1

    def _remove(self, key: BlockKey) -> None:
        super()._remove(key)
        self._used_often.discard(key)
