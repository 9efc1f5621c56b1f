"""How far apart the uses of blocks are, and with that the hit rate of LRU at every size at once.

The reuse distance of a reference is how many different blocks were used since the last use of
its block, itself included: chain LRU hits it in every cache of at least so many blocks. That
holds exactly, pins and leaves included: what LRU holds is the top of one stack, in which chains
lie root first.

A block last used by request r has above it all blocks that later requests used last, and those
of r that are nearer to the root. A chain falls into few runs last used by one request each, so
the cost is that of the runs, not of the references.

Source: Mattson et al., "Evaluation techniques for storage hierarchies" (1970), with the tree of
Bennett and Kruskal (1975) over requests in place of references.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.references import References

_TELL_EVERY = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Reuse:
    """How many references have which reuse distance, and how many are first uses.

    Shapes: counts [U + 1]; counts[d] references are d apart. counts[0] is 0.
    """

    counts: NDArray[np.int64]
    first_uses: int

    @property
    def references(self) -> int:
        """All references."""
        return int(self.counts.sum()) + self.first_uses

    def lru_hits(self, capacity: int) -> int:
        """Return how many references chain LRU hits with so many blocks."""
        return int(self.counts[: capacity + 1].sum())

    def by_powers_of_two(self) -> list[tuple[int, int]]:
        """Return (most, references) for distances of 1, 2, up to 4, up to 8, and so on."""
        cumulative = np.cumsum(self.counts)
        rows = []
        most, before = 1, 0
        while before < cumulative[-1]:
            upto = int(cumulative[min(most, len(cumulative) - 1)])
            rows.append((most, upto - before))
            most, before = 2 * most, upto
        return rows


def measure_reuse(references: References, tell: Callable[[int], None]) -> Reuse:
    """Return the reuse distances of all references; `tell` hears how many are done."""
    last_use = np.full(references.unique_blocks, -1, np.int64)
    stack = _Stack(references.requests)
    steps = np.zeros(references.unique_blocks + 2, np.int64)
    first_uses = 0
    for request in range(references.requests):
        chain = references.chain(request)
        if not len(chain):
            continue
        used = last_use[chain]
        edges = [0, *(np.flatnonzero(np.diff(used)) + 1).tolist(), len(chain)]
        runs = [(int(used[a]), a, b) for a, b in pairwise(edges)]
        for former, start, end in runs:
            if former < 0:
                first_uses += end - start
                continue
            nearest = stack.above(former) + start - stack.begins[former] + 1
            steps[nearest] += 1
            steps[nearest + end - start] -= 1
        for former, start, end in runs:
            if former >= 0:
                stack.take(former, end - start, end)
        stack.push(request, len(chain))
        last_use[chain] = request
        if request % _TELL_EVERY == 0:
            tell(int(references.starts[request]))
    return Reuse(np.cumsum(steps)[:-1], first_uses)


class _Stack:
    """How many blocks each request was the last to use: a Fenwick tree over requests.

    The blocks that a request was the last to use are the end of its chain, from `begins` on:
    whoever uses a block uses all before it.
    """

    def __init__(self, requests: int) -> None:
        self.begins = [0] * requests
        self._sums = [0] * (requests + 1)
        self._total = 0

    def above(self, request: int) -> int:
        """Return how many blocks were last used by later requests."""
        upto = 0
        at = request + 1
        while at:
            upto += self._sums[at]
            at &= at - 1
        return self._total - upto

    def push(self, request: int, blocks: int) -> None:
        """Note that `request`, the latest, used so many blocks."""
        self._add(request, blocks)

    def take(self, request: int, blocks: int, begins: int) -> None:
        """Note that so many blocks of `request` were used again, all before `begins`."""
        self._add(request, -blocks)
        self.begins[request] = begins

    def _add(self, request: int, blocks: int) -> None:
        self._total += blocks
        at = request + 1
        while at < len(self._sums):
            self._sums[at] += blocks
            at += at & -at
