"""A smaller trace that behaves like the whole: a share of the blocks, and caches as much smaller.

Blocks are kept or left by a hash of their own, and each chain becomes what is left of it. That is
still a chain: the blocks of a prefix stay in order, and each continues the nearest one kept. To
keep or leave whole chains by a hash of their root would do nothing where all agents share one
system prompt, and where they do not it would let a few long sessions decide. Blocks of
one session behave alike, so a share of each tells more than all of a few.

Two things known exactly of the whole trace make the estimate better. How many blocks are
different: misses are counted for each of them, since a few that all requests ask for would
otherwise weigh by accident. And chain LRU at every size (`reuse`): a sample says how much better
or worse than LRU a policy is, and that is added to what LRU does.

The sample comes in two halves that have no block in common. A figure is the mean of both. Its
error is estimated by half their difference, or by how far the same sample is off for LRU
alone, whichever is larger.

Source: SHARDS (Waldspurger et al., FAST 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.references import References, parents_of

HALVES: Final = 2

_RANGE: Final = float(1 << 64)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A hit rate, and about how far off it may be."""

    hit_rate: float
    error: float


@dataclass(frozen=True, slots=True)
class Half:
    """What one half of a sample hit: the policy, and chain LRU beside it."""

    references: int
    unique_blocks: int
    hits: int
    lru_hits: int

    def hit_rates(self, blocks_per_reference: float) -> tuple[float, float]:
        """Return the hit rates of policy and LRU that this half alone speaks for."""
        scale = blocks_per_reference / max(1, self.unique_blocks)
        return (
            1.0 - (self.references - self.hits) * scale,
            1.0 - (self.references - self.lru_hits) * scale,
        )


def estimate(halves: Sequence[Half], blocks_per_reference: float, lru_hit_rate: float) -> Estimate:
    """Return a policy's hit rate on the whole trace, where LRU's is known to be `lru_hit_rate`.

    `blocks_per_reference` is the share of first uses among all references of the whole trace.
    """
    rates = np.array([half.hit_rates(blocks_per_reference) for half in halves])
    gains = rates[:, 0] - rates[:, 1]
    off = abs(float(rates[:, 1].mean()) - lru_hit_rate)
    hit_rate = min(1.0, max(0.0, lru_hit_rate + float(gains.mean())))
    return Estimate(hit_rate, max(off, float(np.ptp(gains)) / HALVES))


def halves_of(references: References, ratio: float) -> list[References]:
    """Return two samples without a common block, of `ratio` / 2 of the blocks each."""
    places = _hashes(references.unique_blocks) / _RANGE
    share = ratio / HALVES
    return [
        _only(references, (places >= half * share) & (places < (half + 1) * share))
        for half in range(HALVES)
    ]


def _only(references: References, kept: NDArray[np.bool_]) -> References:
    is_kept = kept[references.blocks]
    upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_kept)])
    starts = upto[references.starts]
    numbers = (np.cumsum(kept) - 1).astype(np.int32)
    blocks = numbers[references.blocks[is_kept]]
    parents = parents_of(blocks, starts)
    tokens = np.diff(starts) * references.block_tokens
    return replace(references, blocks=blocks, starts=starts, parents=parents, prompt_tokens=tokens)


def _hashes(count: int) -> NDArray[np.uint64]:
    """Return a well mixed number for each of so many blocks.

    Source: the finalizer of splitmix64 (Steele, Lea and Flood, 2014).
    """
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
