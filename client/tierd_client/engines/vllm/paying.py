"""Whether a load is faster than computing, by what was measured in this process.

Computing: a request takes a step for the rest of its prompt, loaded or not. A load saves what its
tokens would add to that step, so a step of few tokens is taken off what a step with a prompt takes.

Loading: a load of a few blocks is mostly waiting, and one of many mostly bytes. So times are kept
apart by tier and by size, in powers of two. A size that was never loaded takes no less than a
smaller one did, and per block no less than a larger one: by that it is tried once, if it can pay.

What does not pay is computed, and so not measured. It is tried again when so much has been computed
instead that a try in vain costs little beside it: a bad minute is not for ever.

An engine's first loads are made whatever they seem to cost: the first reads of a process are slow,
and one measurement is no rate. Until a step with a prompt was measured, computing takes no longer
than a step for each token would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

PROMPT_TOKENS_MIN: Final = 32
"""A request that computes fewer in a step says nothing about prompts."""

FIRST_LOADS: Final = 4
"""So many loads of an engine are made without being weighed."""

_MANY: Final = 4
_WEIGHT: Final = 0.25
_TRY_RATIO: Final = 0.05


@dataclass(frozen=True, slots=True)
class Offer:
    """A load that could be made: of so many tokens, in so many blocks of each tier."""

    tokens: int
    blocks: dict[str, int]


@dataclass(slots=True)
class _Mean:
    """Running means of an amount and of the seconds it took; an amount of 0 was not measured."""

    amount: float = 0.0
    seconds: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        weight = _WEIGHT if self.amount else 1.0
        self.amount += weight * (amount - self.amount)
        self.seconds += weight * (seconds - self.seconds)


@dataclass(slots=True)
class _Sizes:
    """What loads from one tier took, by the number of bits of their number of blocks."""

    means: dict[int, _Mean] = field(default_factory=dict)

    def add(self, blocks: int, seconds: float) -> None:
        self.means.setdefault(blocks.bit_length(), _Mean()).add(blocks, seconds)

    def seconds(self, blocks: int) -> float:
        """Return what a load takes, or at least takes if there was none of its size."""
        if (own := self.means.get(blocks.bit_length())) is not None:
            return own.seconds * blocks / own.amount
        others = self.means.values()
        return max((each.seconds * min(1.0, blocks / each.amount) for each in others), default=0.0)


class Rates:
    """Measured times of loading and of computing, and what follows from them.

    Units: seconds, tokens, blocks. Concurrency: used by the scheduler's thread alone.
    """

    def __init__(self) -> None:
        self._short_step = _Mean()
        self._prompt_step = _Mean()
        self._overhead = _Mean()
        self._tiers: dict[str, _Sizes] = {}
        self._declined_s = 0.0
        self._unweighed = FIRST_LOADS

    def computed(self, prompt_tokens: int, seconds: float) -> None:
        """Note a step with so many tokens of prompts, apart from requests that had only a few."""
        if prompt_tokens:
            self._prompt_step.add(prompt_tokens, seconds)
        else:
            self._short_step.add(1, seconds)

    def loaded(self, blocks: dict[str, int], seconds: float, whole_s: float) -> None:
        """Note a load: blocks of each tier, the time they took, and the time until it was used."""
        self._overhead.add(1, max(0.0, whole_s - seconds))
        if not blocks:
            return
        # What the faster tiers took is known; of a tier that is new it is the rest.
        slowest = max(
            blocks, key=lambda tier: (tier not in self._tiers, self._part_s(tier, blocks))
        )
        others_s = sum(self._part_s(tier, blocks) for tier in blocks if tier != slowest)
        took_s = max(seconds - others_s, seconds / 2)
        self._tiers.setdefault(slowest, _Sizes()).add(blocks[slowest], took_s)

    def failed(self, blocks: dict[str, int], seconds: float) -> None:
        """Note a load that was given up after so long: whole it would have taken longer."""
        if seconds > self.load_s(blocks):
            self.loaded(blocks, seconds, seconds)

    def load_s(self, blocks: dict[str, int]) -> float:
        """Return the seconds until a load can be used; at least those, where it would be new."""
        return self._overhead.seconds + sum(self._part_s(tier, blocks) for tier in blocks)

    def compute_s(self, tokens: int) -> float:
        """Return the seconds that so many tokens add to a step, or add at most; 0: nobody knows."""
        step = self._prompt_step
        if not step.amount:
            return tokens * self._short_step.seconds
        added_s = max(0.0, step.seconds - self._short_step.seconds)
        # What a few tokens add says little of many: then all that the step took counts for them.
        return tokens / step.amount * (step.seconds if tokens > _MANY * step.amount else added_s)

    def best(self, offers: Sequence[Offer]) -> Offer | None:
        """Return the load that saves the most time; None if computing is faster than each.

        Shapes: at least one offer, each the one before and more.
        """
        whole = offers[-1]
        if self._unweighed or not (self._prompt_step.amount or self._short_step.amount):
            self._unweighed = max(0, self._unweighed - 1)
            return whole
        best, saved_s = None, 0.0
        for offer in offers:
            if self._saved_s(offer) > saved_s:
                best, saved_s = offer, self._saved_s(offer)
        if best is whole:
            return whole
        self._declined_s += self.compute_s(whole.tokens - (best.tokens if best else 0))
        if saved_s - self._saved_s(whole) > self._declined_s * _TRY_RATIO:
            return best
        # Old measurements must not outvote the new one.
        self._declined_s = 0.0
        self._overhead = _Mean()
        for tier in whole.blocks:
            self._tiers.pop(tier, None)
        return whole

    def _saved_s(self, offer: Offer) -> float:
        return self.compute_s(offer.tokens) - self.load_s(offer.blocks)

    def _part_s(self, tier: str, blocks: dict[str, int]) -> float:
        return self._tiers.get(tier, _Sizes()).seconds(blocks[tier])
