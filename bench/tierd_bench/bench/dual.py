"""Rows of dual-path loading: both routes off the disk at once, beside each of them alone."""

from collections.abc import Callable, Sequence
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


def dual_path(stage: Stage, limit: Limit, runs: int) -> Figures:
    """Return GB/s of fetching cold chains by whichever routes are best, and by each alone.

    The three take turns, on chains that are on the disk only, and every block is verified. The
    first turns are for the client to learn what the routes are good for, and do not count.
    """
    sizes = stage.sizes
    cold = ColdChains(stage, sizes.dual_chains, sizes.dual_chain)
    found: list[Fetched] = []

    def by(route: Route) -> Callable[[], float]:
        def fetch() -> float:
            fetched = cold.fetch(route)
            if route == "auto":
                found.append(fetched)
            elif any(name != f"disk-{route}" for name in fetched.routes):
                raise NotMeasured(f"of {route} blocks some came by {', '.join(fetched.routes)}")
            return cold.chain_bytes / GB / cold.seconds

        return fetch

    turns = by("staged"), by("direct"), by("auto")
    for _ in range(sizes.dual_learn):
        for turn in turns:
            turn()
    staged, direct, auto = take_turns(runs, stage.tell, *turns)
    if isinstance(stage.client, ThrottledClient) and not stage.client.bytes_read:
        raise NotMeasured("direct reads were not slowed down")
    what, limits = limit(staged, direct)
    shape = f"{sizes.dual_chain} blocks, {stage.scene.throttle or 'one disk, not throttled'}"
    others = {"staged alone": staged, "direct alone": direct}
    return Figures("GB/s", auto, limits, what, f"{shape}; tierd: {_split(found[-runs:])}", others)


def _split(fetches: Sequence[Fetched]) -> str:
    """Say what each route brought to a fetch, and how long it took until the last of that."""
    parts = []
    for name in sorted({name for fetched in fetches for name in fetched.routes}):
        uses = [fetched.routes[name] for fetched in fetches if name in fetched.routes]
        blocks, took_ms = median(use.blocks for use in uses), _MS * median(u.seconds for u in uses)
        parts.append(f"{blocks:g} {name} in {took_ms:.0f} ms ({len(uses)} runs)")
    return ", ".join(parts)
