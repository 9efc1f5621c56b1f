"""Every row by name: which scene it needs, and its budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tierd.core.units import GiB, KiB, MiB
from tierd_bench.bench.calls import fetch_views, match, match_inside
from tierd_bench.bench.disk import disk_read, disk_write
from tierd_bench.bench.host import fetch_cpu, fetch_one, fetch_rate, publish_rate
from tierd_bench.bench.rows import Bound, Budget, BudgetOf, Row
from tierd_bench.bench.sizes import Sizes
from tierd_bench.bench.stage import Scene, Stage


@dataclass(frozen=True, slots=True)
class Measure:
    """How a row is made. Measures with equal scenes that follow one another share a daemon."""

    name: str
    scene: Scene
    runs: int
    measure: Callable[[Stage], Row]


def catalogue(sizes: Sizes) -> list[Measure]:
    """Return every measure there is, in the order in which they run."""
    return [
        *_host("2MiB", 2 * MiB, sizes, _LARGE),
        *_host("256KiB", 256 * KiB, sizes, _SMALL),
        *_calls(sizes),
        *_disk(sizes),
    ]


def chosen(measures: Sequence[Measure], names: Sequence[str]) -> list[Measure]:
    """Return those that one of `names` names, or begins; all, if there are none."""
    if not names:
        return list(measures)
    exact = {measure.name for measure in measures}
    return [m for m in measures if any(_names(name, m.name, exact) for name in names)]


@dataclass(frozen=True, slots=True)
class _HostBudgets:
    batch: Budget
    few: Budget | None
    one: Budget | None
    publish: Budget | None


_LARGE: Final = _HostBudgets(
    Budget(Bound.LEAST, 0.9),
    Budget(Bound.LEAST, 0.75),
    Budget(Bound.MOST, 2),
    Budget(Bound.LEAST, 0.8),
)
_SMALL: Final = _HostBudgets(Budget(Bound.LEAST, 0.8), None, None, None)
_CPU: Final = Budget(Bound.MOST, 0.12, BudgetOf.VALUE)
_VIEWS: Final = Budget(Bound.MOST, 3)
_INSIDE: Final = Budget(Bound.MOST, 0.3, BudgetOf.VALUE)
_DISK_READ: Final = Budget(Bound.LEAST, 0.9)
_DISK_WRITE: Final = Budget(Bound.LEAST, 0.85)


def _host(label: str, block_bytes: int, sizes: Sizes, budgets: _HostBudgets) -> list[Measure]:
    scene = Scene(block_bytes, _HOST_BATCHES * sizes.batch * block_bytes)
    fetch, runs = f"fetch_host_{label}", sizes.host_runs
    few, several = sizes.few, max(1, sizes.batch // sizes.few)
    whole = partial(fetch_rate, name=fetch, blocks=sizes.batch, chains=1, budget=budgets.batch)
    some = partial(
        fetch_rate, name=f"{fetch}_x16", blocks=few, chains=several, budget=budgets.few
    )
    one = partial(fetch_one, name=f"{fetch}_x1", budget=budgets.one)
    publish = partial(publish_rate, name=f"publish_{label}", budget=budgets.publish)
    measures = [
        Measure(fetch, scene, runs, whole),
        Measure(f"{fetch}_x16", scene, runs, some),
        Measure(f"{fetch}_x1", scene, runs, one),
    ]
    if budgets is _LARGE:
        cpu = partial(fetch_cpu, name=f"{fetch}_cpu", budget=_CPU)
        views = partial(fetch_views, name="fetch_views_512", budget=_VIEWS)
    return [*measures, Measure(f"publish_{label}", scene, runs, publish)]
