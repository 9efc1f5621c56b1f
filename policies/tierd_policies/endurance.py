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
    follows the budget: nothing while all of it is saved up, and as much as the best class
    promises when all is spent, so that writes settle at the rate at which the budget is earned,
    and go to the blocks that are read most.

    The budget itself, its bytes and its clock, is control's: it tells by `afford` how much is
    saved up, and writes nothing that it cannot pay. Without one all is saved up, always.

    Units: O(1); 4 bytes for each of `keys_expected`.

    Source: write where reads saved per byte written exceed rho* = A C / S, from the study of
    high-bandwidth flash (arXiv 2608.11668), with the price found by feedback instead of given.
    """

    def __init__(self, keys_expected: int = 1 << 18) -> None:
        self._saved_ratio = 1.0
        self._sketch = FrequencySketch(keys_expected)
        self._seen = [0.0] * (_SIGHTINGS_MAX + 2)
        """How many keys were seen n times."""
        self._promised = [_OPTIMISM] * (_SIGHTINGS_MAX + 2)
        self._calls = 0

    def afford(self, saved_ratio: float) -> None:
        """Note which share of what the budget can save up is there, below 0 if it is owed."""
        self._saved_ratio = min(1.0, saved_ratio)

    def admit(self, key: BlockKey) -> bool:
        """Note a sighting of `key`, and say whether it is worth a write now."""
        self._sketch.see(key)
        count = self._sketch.count(key)
        self._seen[count] += 1
        self._calls += 1
        if self._calls % _LEARN_EVERY == 0:
            self._learn()
        price = max(self._promised) * (1 - self._saved_ratio)
        return self._promised[count] >= price

    def _learn(self) -> None:
        """Estimate the reads after n sightings: the chance of one more, times that and the rest."""
        expected = 0.0
        for count in range(_SIGHTINGS_MAX, 0, -1):
            again = (self._seen[count + 1] + _OPTIMISM) / (self._seen[count] + 1)
            expected = min(again, 1.0) * (1 + expected)
            self._promised[count] = expected
        self._seen = [count / 2 for count in self._seen]
