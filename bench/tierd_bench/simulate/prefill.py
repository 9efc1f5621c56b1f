"""How long an engine computes a prompt, of which the first tokens may be there already."""

from dataclasses import dataclass
from typing import Protocol


class Prefill(Protocol):
    """A model of prefill on one engine."""

    def seconds(self, cached: int, new: int) -> float:
        """Return the time for `new` tokens that follow `cached` ones."""
        ...


@dataclass(frozen=True, slots=True)
class NoPrefill:
    """Computing takes no time, as in a replay, where writing a block stands for it."""

    def seconds(self, cached: int, new: int) -> float:
        """Return 0."""
        return 0.0


@dataclass(frozen=True, slots=True)
class PrefillRate:
    """A measured rate, taken to be the same at every length."""

    tokens_per_s: float

    def seconds(self, cached: int, new: int) -> float:
        """Return the time for `new` tokens."""
        return new / self.tokens_per_s


@dataclass(frozen=True, slots=True)
class PrefillFlops:
    """FLOPs of the model over those that the engine reaches.

    Two a token for each active parameter, and attention: four a pair of tokens for each
    of `attention_width`, the query width (heads * head size) times the layers that attend.
    A token attends to all before it, so `new` ones see `cached + new / 2` on average.

    Units: `flops_per_s` is of all GPUs of one engine at their peak, `utilisation` the share
    of it that prefill reaches.

    Source: Kaplan et al., "Scaling Laws for Neural Language Models" (2020), table 1.
    """

    active_params: float
    attention_width: float
    flops_per_s: float
    utilisation: float = 0.5

    def seconds(self, cached: int, new: int) -> float:
        """Return the time for `new` tokens that follow `cached` ones."""
        linear = 2 * self.active_params * new
        attention = 4 * self.attention_width * new * (cached + new / 2)
        return (linear + attention) / (self.flops_per_s * self.utilisation)
