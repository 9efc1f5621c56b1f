"""Whether a load is faster than computing, by what was measured in this process.

Without measurements every load is made: that is how they come. A rate that speaks against loading
is trusted a little less each time it does, so that a bad minute is not for ever.
"""

from collections.abc import Mapping
from typing import Final

_WEIGHT: Final = 0.25
_LOADS_MIN: Final = 4
_STEPS_MIN: Final = 4
_STEP_TOKENS_MIN: Final = 32
_FORGIVING: Final = 1.05


class Rates:
    """Measured rates of loading, by tier, and of computing.

    Units: seconds, bytes, tokens. Concurrency: used by the scheduler's thread alone.
    """

    def __init__(self) -> None:
        self._bytes_per_s: dict[str, float] = {}
        self._fixed_s = 0.0
        self._tokens_per_s = 0.0
        self._loads = self._steps = 0

    def computed(self, tokens: int, seconds: float) -> None:
        """Note a step of the engine. Those of a few tokens say nothing about a prompt."""
        if tokens >= _STEP_TOKENS_MIN and seconds > 0:
            self._steps += 1
            self._tokens_per_s = _mean(self._tokens_per_s, tokens / seconds)

    def loaded(self, sizes: Mapping[str, int], seconds: float, whole_s: float) -> None:
        """Note a load: bytes of each tier, the time they took, and the time until it was used."""
        self._loads += 1
        self._fixed_s = _mean(self._fixed_s, max(0.0, whole_s - seconds))
        slowest = max(sizes, key=lambda tier: self._slowness(tier, sizes[tier]), default=None)
        if slowest is None or not seconds:
            return
        if len(sizes) > 1:  # What the others cost is known, or nothing.
            others = sum(size / self._rate(tier) for tier, size in sizes.items() if tier != slowest)
            seconds = max(seconds - others, seconds / 2)
        rate = sizes[slowest] / seconds
        self._bytes_per_s[slowest] = _mean(self._bytes_per_s.get(slowest, 0.0), rate)

    def worth(self, sizes: Mapping[str, int], tokens: int) -> float:
        """Return the seconds that a load saves; negative if computing is faster."""
        load_s = self._fixed_s + sum(size / self._rate(tier) for tier, size in sizes.items())
        return self.compute_s(tokens) - load_s

    def compute_s(self, tokens: int) -> float:
        """Return the seconds that it takes to compute so many tokens; 0 if nobody knows."""
        return tokens / self._tokens_per_s if self._tokens_per_s else 0.0

    @property
    def known(self) -> bool:
        """Say whether there is enough to decide by."""
        return self._loads >= _LOADS_MIN and self._steps >= _STEPS_MIN

    def declined(self) -> None:
        """Note that a load was not made."""
        self._fixed_s /= _FORGIVING
        for tier in self._bytes_per_s:
            self._bytes_per_s[tier] *= _FORGIVING

    def _slowness(self, tier: str, size: int) -> tuple[bool, float]:
        """Rank tiers by what their part of a load took; one that is new took the rest of it."""
        return tier not in self._bytes_per_s, size / self._rate(tier)

    def _rate(self, tier: str) -> float:
        return self._bytes_per_s.get(tier, 0.0) or float("inf")


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
