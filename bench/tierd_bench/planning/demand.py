"""What a trace asks of tiers: hits at given sizes, and the size that a wanted hit rate takes.

All simulation is that of `tierd_bench.simulate`, with its rules. Two sizes stand for two tiers:
what fits into host memory is served from there, the rest of what the disk holds from disk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.bounds import infinite_hits, run_belady
from tierd_bench.simulate.cache import run_policy
from tierd_bench.simulate.references import References
from tierd_bench.simulate.reuse import Reuse, measure_reuse
from tierd_policies.registry import eviction

Tell = Callable[[int], None]

LRU = "chain_lru"
"""The policy whose hit rate is known at every size at once."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The sizes of the tiers, in blocks.

    The disk holds copies of what host memory holds, since write-back starts at the seal: both
    together hold as many different blocks as the larger of them.
    """

    host: int
    disk: int

    @property
    def together(self) -> int:
        """Different blocks that both hold."""
        return max(self.host, self.disk)


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What tiers hit.

    Shapes: host [requests], together [requests]: leading blocks, found in host memory and in
    either. `optimum` is what no eviction exceeds.
    """

    host: NDArray[np.int64]
    together: NDArray[np.int64]
    optimum: int
    has_disk: bool

    @property
    def disk_reads(self) -> int:
        """How many blocks the disk is read for."""
        return int((self.together - self.host).sum())


def steps(references: References) -> int:
    """Return how many references `reuse_of` and `simulate` together go through, for progress."""
    return 4 * len(references.blocks)


def reuse_of(references: References, tell: Tell) -> Reuse:
    """Return the reuse distances of a trace; `tell` hears how far it is."""
    return measure_reuse(references, tell)


def simulate(references: References, tiers: Tiers, policy: str, tell: Tell) -> Hits:
    """Return what tiers hit under a policy; `tell` hears how many references are done."""
    count = len(references.blocks)
    host = run_policy(references, eviction(policy), tiers.host, tell).hits
    together = host
    if tiers.disk > tiers.host:
        make = eviction(policy)
        together = run_policy(references, make, tiers.disk, lambda at: tell(count + at)).hits
    best = run_belady(references, tiers.together, lambda at: tell(2 * count + at))
    return Hits(
        # A policy other than LRU may hit more with less; nothing comes from disk then.
        host=np.minimum(host, together).astype(np.int64),
        together=together.astype(np.int64),
        optimum=int(best.hits.sum()),
        has_disk=tiers.disk > 0,
    )


def blocks_for(reuse: Reuse, hit_rate: float) -> int | None:
    """Return the fewest blocks with which chain LRU reaches a hit rate; None if none do."""
    wanted = int(np.ceil(hit_rate * reuse.references - 1e-9))
    cumulative = np.cumsum(reuse.counts)
    if not reuse.references or cumulative[-1] < wanted:
        return None
    return int(np.searchsorted(cumulative, wanted))


def infinite_hit_rate(references: References) -> float:
    """Return the hit rate of a cache that never evicts."""
    return infinite_hits(references) / max(1, len(references.blocks))
