"""Rows of dual-path loading: both routes off the disk at once, beside each of them alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from tierd_bench.bench.disk import GB, ColdChains
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import NotMeasured, Stage
from tierd_bench.bench.throttled import ThrottledClient
from tierd_bench.bench.timing import take_turns
from tierd_client import Fetched
from tierd_client.splitting import Route

Rates = tuple[float, ...]
Limit = Callable[[Rates, Rates], tuple[str, Rates]]
"""What the two routes alone, staged and direct, come to as a limit."""

_MS: Final = 1000


def better_alone(staged: Rates, direct: Rates) -> tuple[str, Rates]:
    """Return the route that is faster by itself."""
    if median(staged) >= median(direct):
        return "the better route alone: staged", staged
    return "the better route alone: direct", direct


def sum_of_both(staged: Rates, direct: Rates) -> tuple[str, Rates]:
    """Return what both give one after the other, added up."""
    both = tuple(one + other for one, other in zip(staged, direct, strict=True))
    return "staged alone and direct alone, added up", both


@dataclass(slots=True)
class _Routes:
    """What each route brought to each fetch: blocks, and milliseconds until its last."""

    blocks: dict[str, list[int]] = field(default_factory=dict)
    took_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, fetched: Fetched) -> None:
        for name, use in fetched.routes.items():
            self.blocks.setdefault(name, []).append(use.blocks)
            self.took_ms.setdefault(name, []).append(_MS * use.seconds)

    def __str__(self) -> str:
        return ", ".join(
            f"{median(blocks):g} blocks {name} in {median(self.took_ms[name]):.0f} ms"
            for name, blocks in sorted(self.blocks.items())
        )


def dual_path(stage: Stage, limit: Limit) -> Figures:
    """Return GB/s of fetching cold chains by both routes, and by each of them alone.

    The three take turns, on chains that are on the disk only, and every block is verified.
    """
    sizes = stage.sizes
    cold = ColdChains(stage, sizes.dual_chains, sizes.dual_chain)
    split = _Routes()

    def by(route: Route) -> Callable[[], float]:
        def fetch() -> float:
            fetched = cold.fetch(route)
            if route == "auto":
                split.add(fetched)
            elif any(name != f"disk-{route}" for name in fetched.routes):
                raise NotMeasured(f"of {route} blocks some came by {', '.join(fetched.routes)}")
            return cold.chain_bytes / GB / cold.seconds

        return fetch

    staged, direct, auto = take_turns(
        sizes.disk_runs, stage.tell, by("staged"), by("direct"), by("auto")
    )
    if isinstance(stage.client, ThrottledClient) and not stage.client.bytes_read:
        raise NotMeasured("direct reads were not slowed down")
    what, limits = limit(staged, direct)
    shape = f"{sizes.dual_chain} blocks, {stage.scene.throttle or 'one disk, not throttled'}"
    others = {"staged alone": staged, "direct alone": direct}
    return Figures("GB/s", auto, limits, what, f"{shape}; both: {split}", others)
