"""At which prefix lengths loading KV beats computing it. Nothing here knows a trace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tierd.core.layouts import LayoutSpec
from tierd_bench.planning.machine import Link, Machine

CONTEXT_TOKENS: Final = 131072
"""How far to look where a model does not say how long its context is."""

_SHORTEST: Final = 256


@dataclass(frozen=True, slots=True)
class Length:
    """A prefix of one length: what it weighs, and how long each way takes.

    `needed_bytes_per_s` is the bandwidth at which loading takes as long as computing.
    """

    tokens: int
    bytes: int
    compute_s: float
    host_s: float
    disk_s: float
    needed_bytes_per_s: float

    @property
    def worth_loading(self) -> list[str]:
        """The tiers from which loading takes no longer than computing."""
        times = {"host": self.host_s, "disk": self.disk_s}
        return [tier for tier, load_s in times.items() if load_s <= self.compute_s]


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From how many tokens on loading from a tier beats computing; None if at no length."""

    tier: str
    bytes_per_s: float
    tokens: int | None
    looked_tokens: int


def prefix_bytes(layout: LayoutSpec, tokens: int) -> int:
    """Return the bytes of the blocks that hold so many tokens."""
    return -(-tokens // layout.block_tokens) * layout.block_bytes


def lengths(machine: Machine, layout: LayoutSpec, context_tokens: int) -> list[Length]:
    """Return prefixes of ever twice the length, up to a model's context."""
    longest = context_tokens or CONTEXT_TOKENS
    tokens = min(max(_SHORTEST, layout.block_tokens), longest)
    found = []
    while tokens < longest:
        found.append(_length(machine, layout, tokens))
        tokens *= 2
    return [*found, _length(machine, layout, longest)]


def _length(machine: Machine, layout: LayoutSpec, tokens: int) -> Length:
    size = prefix_bytes(layout, tokens)
    compute_s = machine.prefill.seconds(0, tokens)
    return Length(
        tokens=tokens,
        bytes=size,
        compute_s=compute_s,
        host_s=machine.host.seconds(size),
        disk_s=machine.disk.seconds(size),
        needed_bytes_per_s=size / compute_s,
    )


def break_even(machine: Machine, link: Link, layout: LayoutSpec, context_tokens: int) -> BreakEven:
    """Return the shortest prefix, in whole blocks, from which on loading takes no longer.

    Loading is a wait and a straight line, computing bends upwards, so they cross at most once.
    """
    longest = (context_tokens or CONTEXT_TOKENS) // layout.block_tokens

    def loading_wins(blocks: int) -> bool:
        compute_s = machine.prefill.seconds(0, blocks * layout.block_tokens)
        return link.seconds(blocks * layout.block_bytes) <= compute_s

    blocks = _first(loading_wins, longest)
    return BreakEven(
        tier=link.tier,
        bytes_per_s=link.bytes_per_s,
        tokens=None if blocks is None else blocks * layout.block_tokens,
        looked_tokens=longest * layout.block_tokens,
    )


def _first(holds: Callable[[int], bool], most: int) -> int | None:
    """Return the first count from 1 to `most` from which on `holds` is true, by bisection."""
    if most < 1 or not holds(most):
        return None
    least = 1
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if holds(middle) else (middle + 1, most)
    return least
