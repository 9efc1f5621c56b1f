"""What was asked of each namespace, in tokens, and what came of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """The counters of one namespace.

    Law: asked = sum of hits + missed, after every step.
    """

    block_tokens: int
    requests: int = 0
    tokens_asked: int = 0
    tokens_hit: Counter[int] = field(default_factory=Counter)
    tokens_missed: int = 0
    blocks_sealed: int = 0
    blocks_declined: int = 0
    corrupt_blocks: int = 0

    def count_fetch(self, found: Sequence[int], missed: int) -> None:
        """Count a request that found blocks in these tiers and missed so many."""
        self.requests += 1
        self.tokens_asked += (len(found) + missed) * self.block_tokens
        self.tokens_missed += missed * self.block_tokens
        for tier, blocks in Counter(found).items():
            self.tokens_hit[tier] += blocks * self.block_tokens

    def count_missing(self, missed: int, *, of: int) -> None:
        """Count so many `of` the blocks of a request as missed, of which no fetch will tell.

        What is left of it is counted when it is fetched, and so is the request.
        """
        self.requests += missed == of
        self.tokens_asked += missed * self.block_tokens
        self.tokens_missed += missed * self.block_tokens

    def count_lost(self, found: Sequence[int]) -> None:
        """Count blocks that were found in these tiers as missed after all."""
        for tier in found:
            self.tokens_hit[tier] -= self.block_tokens
            self.tokens_missed += self.block_tokens
