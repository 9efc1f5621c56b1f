"""Admission to disk under a budget of writes: what is written must be worth its wear."""

from typing import Final

from tierd.core.keys import BlockKey
from tierd_policies.sketch import FrequencySketch

_SIGHTINGS_MAX: Final = 15
_LEARN_EVERY: Final = 1024
_OPTIMISM: Final = 0.5
"""Reads to expect of a class of which nothing is known yet."""


class EnduranceBudget:
    """Write a block when the reads it promises beat the price of a write.

    What blocks promise is learned: of those seen n times, how many were seen again. The price
    follows the budget: nothing while all of `blocks_max` is saved up, and as much as the best
    class promises when all is spent, so that writes settle at the rate at which the budget is
    earned, and go to the blocks that are read most.

    Who owns the clock calls `earn`: a budget of B bytes a day earns B / 86400 / block bytes a
    second. It starts saved up.

    Units: blocks; `blocks_max` is how many may be written at a stroke. O(1).

    Source: write where reads saved per byte written exceed rho* = A C / S, from the study of
    high-bandwidth flash (arXiv 2608.11668), with the price found by feedback instead of given.
    """

    def __init__(self, blocks_max: float, keys_expected: int = 1 << 18) -> None:
        self._blocks_max = blocks_max
        self._saved = blocks_max
        self._sketch = FrequencySketch(keys_expected)
        self._seen = [0.0] * (_SIGHTINGS_MAX + 2)
        """How many keys were seen n times."""
        self._promised = [_OPTIMISM] * (_SIGHTINGS_MAX + 2)
        self._calls = 0

    def earn(self, blocks: float) -> None:
        """Add to what may be written."""
        self._saved = min(self._blocks_max, self._saved + blocks)

    def admit(self, key: BlockKey) -> bool:
        """Note a sighting of `key`, and say whether it is worth a write now."""
        self._sketch.see(key)
        count = self._sketch.count(key)
        self._seen[count] += 1
        self._calls += 1
        if self._calls % _LEARN_EVERY == 0:
            self._learn()
        price = max(self._promised) * (1 - self._saved / self._blocks_max)
        if self._saved < 1 or self._promised[count] < price:
            return False
        self._saved -= 1
        return True

    def _learn(self) -> None:
        """Estimate the reads after n sightings: the chance of one more, times that and the rest."""
        expected = 0.0
        for count in range(_SIGHTINGS_MAX, 0, -1):
            again = (self._seen[count + 1] + _OPTIMISM) / (self._seen[count] + 1)
            expected = min(again, 1.0) * (1 + expected)
            self._promised[count] = expected
        self._seen = [count / 2 for count in self._seen]
