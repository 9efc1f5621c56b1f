"""What no policy can beat: an infinite cache, and Belady's choice under the same constraints.

`run_belady` knows the future and evicts, of the blocks that may go, the one whose next use is
furthest away. It has the most hits of all caches of its size that hold the request in flight,
or the leading blocks of one longer than the cache, when that request ends: of every eviction
policy, leaf-first or not, that this simulator can run. A cache that may refuse to hold what was
just computed could do better still.

Why: a request for a prefix is a request for a set of blocks that must all be held at its end, and
evicting the furthest is optimal for sets as it is for single blocks. Who uses a block uses all
before it, so a parent's next use is never later than its child's, and the furthest block is
always a leaf. The constraint of leaves takes nothing away.

Source: Belady, "A study of replacement algorithms" (1966).
"""

import time
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.cache import Outcome
from tierd_bench.simulate.references import References
from tierd_bench.traces.requests import prefix_length

_TELL_EVERY = 256


def infinite_hits(references: References) -> int:
    """Return how many references a cache hits that never evicts: all but the first uses."""
    return len(references.blocks) - references.unique_blocks


def run_belady(references: References, capacity: int, tell: Callable[[int], None]) -> Outcome:
    """Return what Belady's cache of `capacity` blocks hits; `tell` hears how far it is.

    Units: O(log n) for each request and each eviction, not for each reference.
    """
    following = _next_uses(references)
    cache = _Belady(references, capacity)
    starts = references.starts.tolist()
    hits = np.zeros(references.requests, np.int32)
    begun_ns = time.process_time_ns()
    for request in range(references.requests):
        start, end = starts[request], starts[request + 1]
        if start < end:
            hits[request] = cache.ask(references.blocks[start:end], following[start:end], request)
        if request % _TELL_EVERY == 0:
            tell(start)
    cpu_s = (time.process_time_ns() - begun_ns) / 1e9
    return Outcome(hits, cache.evictions, cpu_s)


class _Belady:
    """Holds up to `capacity` blocks. The heap has the leaves, furthest next use first.

    Entries are not taken out when a leaf is used or continued; they are dropped when they come
    up and no longer say what is true.
    """

    def __init__(self, references: References, capacity: int) -> None:
        self.evictions = 0
        self._capacity = capacity
        self._parents = references.parents.tolist()
        self._next_use = np.zeros(references.unique_blocks, np.int32)
        self._held: set[int] = set()
        self._children = [0] * (references.unique_blocks + 1)
        """Of each block those that are held; the last place is for the roots' parent, -1."""
        self._leaves: list[tuple[int, int]] = []

    def ask(self, chain: NDArray[np.int32], following: NDArray[np.int32], now: int) -> int:
        """Return how many leading blocks are held; then hold the chain, as far as it fits."""
        numbers = chain.tolist()
        hit = prefix_length(self._held, numbers)
        kept = min(len(numbers), self._capacity)
        self._make_room(len(self._held) + kept - hit - self._capacity, now)
        for number in numbers[hit:kept]:
            self._children[self._parents[number]] += 1
        self._held.update(numbers[hit:kept])
        self._next_use[chain[:kept]] = following[:kept]
        self._push(numbers[kept - 1])
        return hit

    def _make_room(self, wanted: int, now: int) -> None:
        while wanted > 0:
            furthest, number = heappop(self._leaves)
            if not self._is_leaf(number) or self._next_use[number] != -furthest:
                continue
            assert -furthest > now, "blocks of the request in flight fit beside one another"
            self._held.remove(number)
            self.evictions += 1
            wanted -= 1
            parent = self._parents[number]
            self._children[parent] -= 1
            if parent >= 0 and not self._children[parent]:
                self._push(parent)

    def _push(self, number: int) -> None:
        heappush(self._leaves, (-int(self._next_use[number]), number))

    def _is_leaf(self, number: int) -> bool:
        return number in self._held and not self._children[number]


def _next_uses(references: References) -> NDArray[np.int32]:
    """Return for each reference the next request that uses its block; R if none does."""
    lengths = np.diff(references.starts)
    users = np.repeat(np.arange(references.requests, dtype=np.int32), lengths)
    order = np.argsort(references.blocks, kind="stable")
    following = np.full(len(order), references.requests, np.int32)
    again = references.blocks[order[1:]] == references.blocks[order[:-1]]
    following[order[:-1][again]] = users[order[1:][again]]
    return following
