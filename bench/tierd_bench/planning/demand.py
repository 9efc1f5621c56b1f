"""What a trace asks of tiers: hits at given sizes, and the size that a wanted hit rate takes.

All simulation is that of `tierd_bench.simulate`, with its rules. Two sizes stand for two tiers:
what fits into host memory is served from there, the rest of what the disk holds from disk. The
disk holds copies of what host memory holds, since write-back starts at the seal, so both
together hold as many different blocks as the larger of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.bounds import infinite_hits, run_belady
from tierd_bench.simulate.cache import run_policy
from tierd_bench.simulate.references import References
from tierd_bench.simulate.reuse import Reuse, measure_reuse
from tierd_policies.registry import eviction

Tell = Callable[[int], None]

LRU: Final = "chain_lru"
"""The policy whose hit rate is known at every size at once."""

_PASSES: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What tiers hit.

    Shapes: host [requests], together [requests]: leading blocks, found in host memory and in
    either. `optimum` is how many no eviction exceeds in as many blocks.
    """

    host: NDArray[np.int64]
    together: NDArray[np.int64]
    optimum: int

    @property
    def disk_reads(self) -> int:
        """How many blocks the disk is read for."""
        return int((self.together - self.host).sum())


def steps(references: References) -> int:
    """Return how many references `reuse_of` and `simulate` together go through, for progress."""
    return _PASSES * len(references.blocks)


def reuse_of(references: References, tell: Tell) -> Reuse:
    """Return the reuse distances of a trace; `tell` hears how many references are done."""
    return measure_reuse(references, tell)


def simulate(references: References, host: int, disk: int, policy: str, tell: Tell) -> Hits:
    """Return what tiers of so many blocks hit under a policy; `tell` hears how far it is."""
    count = len(references.blocks)
    in_host = np.zeros(references.requests, np.int64)
    if host:
        in_host = _run(references, host, policy, tell)
    together = in_host
    if disk > host:
        together = _run(references, disk, policy, lambda done: tell(count + done))
    best = run_belady(references, max(host, disk), lambda done: tell(2 * count + done))
    # A policy other than LRU may hit more with less; nothing comes from disk then.
    return Hits(np.minimum(in_host, together), together, int(best.hits.sum()))


def _run(references: References, blocks: int, policy: str, tell: Tell) -> NDArray[np.int64]:
    return run_policy(references, eviction(policy), blocks, tell).hits.astype(np.int64)


def blocks_for(reuse: Reuse, hit_rate: float) -> int | None:
    """Return the fewest blocks with which chain LRU reaches a hit rate; None if none do."""
    cumulative = np.cumsum(reuse.counts)
    # Of references whole ones count; a rate that came out of a division may be a hair too high.
    wanted = int(np.ceil(hit_rate * reuse.references - 1e-6))
    if cumulative[-1] < wanted:
        return None
    return int(np.searchsorted(cumulative, wanted))


def infinite_hit_rate(references: References) -> float:
    """Return the hit rate of a cache that never evicts."""
    return infinite_hits(references) / max(1, len(references.blocks))
