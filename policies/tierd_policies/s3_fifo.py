"""S3-FIFO eviction for prefix chains."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst

_SMALL_RATIO: Final = 0.1
_GHOST_RATIO: Final = 0.9
_USES_TO_STAY: Final = 2
_LAPS_MAX: Final = 3


class S3Fifo(LeafFirst):
    """Propose first what is new and was hardly used: a scan passes and leaves the rest in place.

    New blocks enter the small queue. From its end those used twice or more go to the main queue,
    the others are victims, remembered as ghosts: one that comes back enters the main queue. The
    main queue is a clock: at its end a block gets another lap for each use, three at most. The
    small queue has a tenth of the blocks, counted with those that are no leaves; a tier that
    evicts is full, so what is tracked then is its capacity.

    With a block its ancestors go to the main queue. A block whose last child went goes on from
    that child's place if they were in one queue, and as newly entered if not.

    Units: O(1) a key; as many ghosts as nine tenths of the blocks.

    Source: Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023).
    """

    def __init__(self) -> None:
        super().__init__()
        self._small: OrderedDict[BlockKey, None] = OrderedDict()
        self._main: OrderedDict[BlockKey, None] = OrderedDict()
        self._uses: dict[BlockKey, int] = {}
        self._in_main: set[BlockKey] = set()
        """Leaves and others; the queues hold leaves only."""
        self._ghosts: OrderedDict[BlockKey, None] = OrderedDict()

    def _order(self) -> Iterator[BlockKey]:
        in_main = len(self._in_main)
        promoted: list[BlockKey] = []
        small, main = iter(self._small), self._main_order(promoted)
        while True:
            if in_main + len(promoted) > self._main_max() and (key := next(main, None)) is not None:
                in_main -= 1
            elif (key := self._next_hardly_used(small, promoted)) is None:
                break
            yield key
        yield from main

    def _next_hardly_used(
        self, small: Iterator[BlockKey], promoted: list[BlockKey]
    ) -> BlockKey | None:
        for key in small:
            if self._uses[key] < _USES_TO_STAY:
                return key
            promoted.append(key)
        return None

    def _main_order(self, promoted: list[BlockKey]) -> Iterator[BlockKey]:
        """Yield the main queue in order of laps, and what entered it meanwhile after the first."""
        for laps in range(_LAPS_MAX + 1):
            yield from (k for k in self._main if min(self._uses[k], _LAPS_MAX) == laps)
            if laps == 0:
                yield from promoted

    def _main_max(self) -> int:
        tracked = len(self._parents)
        return tracked - int(tracked * _SMALL_RATIO)

    def _place(self, key: BlockKey) -> None:
        self._queue(key)[key] = None

    def _leave(self, key: BlockKey) -> None:
        self._small.pop(key, None)
        self._main.pop(key, None)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        same_queue = (parent in self._in_main) == (child in self._in_main)
        return same_queue and not self._was_used_without(parent, child)

    def _insert(self, key: BlockKey) -> None:
        self._uses[key] = 0
        if key in self._ghosts:
            del self._ghosts[key]
            self._keep(key)
        super()._insert(key)
        while len(self._ghosts) > len(self._parents) * _GHOST_RATIO:
            self._ghosts.popitem(last=False)

    def _use(self, key: BlockKey) -> None:
        self._uses[key] += 1

    def _queue(self, key: BlockKey) -> OrderedDict[BlockKey, None]:
        return self._main if key in self._in_main else self._small

    def _keep(self, key: BlockKey) -> None:
        """Count `key` and its ancestors as the main queue's."""
        above: BlockKey | None = key
        while above is not None and above in self._parents and above not in self._in_main:
            self._in_main.add(above)
            above = self._parents[above]

    def _uncover(self, key: BlockKey, child: BlockKey) -> None:
        queue = self._queue(key)
        queue[key] = None
        if queue is self._queue(child):
            queue.move_to_end(key, last=False)
            if not self._was_used_without(key, child):
                self._uses[key] = self._uses[child]

    def _cool(self, key: BlockKey) -> None:
        self._uses[key] = 0
        self._in_main.discard(key)
        if self._is_leaf(key):
            self._main.pop(key, None)
            self._small[key] = None
            self._small.move_to_end(key, last=False)

    def _evict(self, key: BlockKey) -> None:
        """Do what leads to `key` as the victim: promotions, or laps in the main queue."""
        if key in self._small or len(self._in_main) <= self._main_max():
            self._promote_before(key)
        if key in self._small:
            self._ghosts[key] = None
        elif key in self._main:
            self._turn_to(key)

    def _promote_before(self, key: BlockKey) -> None:
        passed = []
        for each in self._small:
            if self._uses[each] >= _USES_TO_STAY:
                passed.append(each)
            if each == key:
                break
        for each in passed:
            del self._small[each]
            self._keep(each)
            self._uses[each] = 0
            self._main[each] = None

    def _turn_to(self, key: BlockKey) -> None:
        while (first := next(iter(self._main))) != key or self._uses[key]:
            self._uses[first] = max(0, min(self._uses[first], _LAPS_MAX) - 1)
            self._main.move_to_end(first)

    def _remove(self, key: BlockKey) -> None:
        del self._uses[key]
        self._in_main.discard(key)
        super()._remove(key)
