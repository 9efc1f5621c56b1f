"""A smaller trace that behaves like the whole: a share of the blocks, and caches as much smaller.

Blocks are kept or left by a hash of their own, and each chain becomes what is left of it. That is
still a chain: the blocks of a prefix stay in order, and each continues the nearest one kept. To
keep or leave whole chains by a hash of their root would do nothing where all agents share one
system prompt, and where they do not it would let a few long sessions decide. Blocks of
one session behave alike, so a share of each tells more than all of a few.

The sample comes in two halves that have no block in common. A figure is the mean of both, and
half their difference estimates its error. Chain LRU is known exactly at every size (`reuse`),
so for LRU the true error is reported too.

Source: SHARDS (Waldspurger et al., FAST 2015).
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.references import References, parents_of

HALVES: Final = 2

_RANGE: Final = float(1 << 64)


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
    parents = parents_of(blocks, starts, int(kept.sum()))
    assert parents is not None, "what is left of a tree is a tree"
    tokens = np.diff(starts) * references.block_tokens
    return replace(
        references, blocks=blocks, starts=starts, parents=parents, prompt_tokens=tokens
    )


def _hashes(count: int) -> NDArray[np.uint64]:
    """Return a well mixed number for each of so many blocks.

    Source: the finalizer of splitmix64 (Steele, Lea and Flood, 2014).
    """
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
