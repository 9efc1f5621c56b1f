"""Every row by name: the scene that it needs, and its budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tierd.core.units import KiB, MiB, round_up
from tierd_bench.bench.calls import fetch_views, match, match_inside
from tierd_bench.bench.demand import demand_p99
from tierd_bench.bench.disk import disk_read, disk_write
from tierd_bench.bench.dual import Limit, better_alone, dual_path, sum_of_both
from tierd_bench.bench.host import fetch_cpu, fetch_one, fetch_rate, publish_rate
from tierd_bench.bench.layers import first_layer
from tierd_bench.bench.recovery import recovery_bytes, recovery_match, recovery_ready
from tierd_bench.bench.rows import Bound, Budget, BudgetOf, Figures
from tierd_bench.bench.simulator import simulator_rate
from tierd_bench.bench.sizes import Sizes
from tierd_bench.bench.stage import Scene, Stage
from tierd_bench.bench.throttled import Throttle

_MATCH_BLOCK_BYTES: Final = 4 * KiB
_MB: Final = 1_000_000

# Well below what a disk does with both at once.
_EQUAL: Final = Throttle(staged=300 * _MB, direct=300 * _MB)
_UNEQUAL: Final = Throttle(staged=300 * _MB, direct=100 * _MB)

_LAYERS: Final = 32
_LONG: Final = "recovery"

_PUBLISHED_WHILE_FETCHING: Final = 5
"""Disk for blocks that are published while others are fetched, as a multiple of those."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a row is made. Neighbours with equal scenes share a daemon. `runs` is for progress."""

    name: str
    scene: Scene
    runs: int
    measure: Callable[[Stage], Figures]
    budget: Budget | None = None


def catalogue(sizes: Sizes) -> list[Measure]:
    """Return every measure there is, in the order in which they run."""
    return [
        *_large_blocks(sizes),
        *_small_blocks(sizes),
        *_matching(sizes),
        *_disk(sizes),
        *_dual_path(sizes),
        *_layers(sizes),
        *_demand(sizes),
        *_simulator(sizes),
        *_recovery(sizes),
    ]


def usual(measures: Sequence[Measure]) -> list[Measure]:
    """Return what runs if nothing is named: a million blocks take minutes to make."""
    return [measure for measure in measures if not measure.name.startswith(_LONG)]


def chosen(measures: Sequence[Measure], wanted: str) -> list[Measure]:
    """Return the measure of that name, or else all whose names begin with it."""
    exact = [measure for measure in measures if measure.name == wanted]
    return exact or [measure for measure in measures if measure.name.startswith(wanted)]


def _large_blocks(sizes: Sizes) -> list[Measure]:
    scene = _host_scene(2 * MiB, sizes)
    runs = sizes.host_runs
    return [
        Measure("fetch_host_2MiB", scene, runs, _batch(sizes), _at_least(0.9)),
        Measure("fetch_host_2MiB_x16", scene, runs, _few(sizes), _at_least(0.75)),
        Measure("fetch_host_2MiB_x1", scene, runs, fetch_one, _at_most(2)),
        Measure("fetch_host_2MiB_cpu", scene, runs, fetch_cpu, _value_at_most(0.12)),
        Measure("fetch_views_512", scene, runs, fetch_views, _at_most(3)),
        Measure("publish_2MiB", scene, runs, publish_rate, _at_least(0.8)),
    ]


def _small_blocks(sizes: Sizes) -> list[Measure]:
    scene = _host_scene(256 * KiB, sizes)
    runs = sizes.host_runs
    return [
        Measure("fetch_host_256KiB", scene, runs, _batch(sizes), _at_least(0.8)),
        Measure("fetch_host_256KiB_x16", scene, runs, _few(sizes)),
        Measure("fetch_host_256KiB_x1", scene, runs, fetch_one),
        Measure("publish_256KiB", scene, runs, publish_rate),
    ]


def _matching(sizes: Sizes) -> list[Measure]:
    blocks = sizes.match + sizes.match_long
    scene = Scene(_MATCH_BLOCK_BYTES, round_up(2 * blocks * _MATCH_BLOCK_BYTES, MiB))
    runs = sizes.host_runs
    some, many = partial(match, blocks=sizes.match), partial(match, blocks=sizes.match_long)
    inside = partial(match_inside, blocks=sizes.match)
    return [
        Measure("match_512", scene, runs, some),
        Measure("match_512_inside", scene, runs, inside, _value_at_most(0.3)),
        Measure("match_6250", scene, runs, many),
    ]


def _disk(sizes: Sizes) -> list[Measure]:
    chain_bytes = sizes.disk_chain * 2 * MiB
    # The host holds less than half of the chains, the disk all of them and those underway.
    host_bytes = (sizes.disk_chains - 1) * chain_bytes // 2
    scene = Scene(2 * MiB, host_bytes, (sizes.disk_chains + 2) * chain_bytes)
    runs = sizes.disk_runs
    return [
        Measure("disk_read_2MiB", scene, runs, disk_read, _at_least(0.9)),
        Measure("disk_write_2MiB", scene, runs, disk_write, _at_least(0.85)),
    ]


def _dual_path(sizes: Sizes) -> list[Measure]:
    def row(name: str, throttle: Throttle | None, limit: Limit, least: float, runs: int) -> Measure:
        chain_bytes = sizes.dual_chain * 2 * MiB
        # The host holds one chain and half of another, the disk all of them.
        disk_bytes = (sizes.dual_chains + 2) * chain_bytes
        scene = Scene(2 * MiB, 3 * chain_bytes // 2, disk_bytes, throttle)
        measure = partial(dual_path, limit=limit, runs=runs)
        return Measure(name, scene, runs, measure, _at_least(least))

    return [
        row("dual_equal", _EQUAL, better_alone, 1.9, sizes.disk_runs),
        row("dual_unequal", _UNEQUAL, sum_of_both, 0.95, sizes.disk_runs),
        row("dual_one_disk", None, better_alone, 0.97, sizes.one_disk_runs),
    ]


def _layers(sizes: Sizes) -> list[Measure]:
    chain_bytes = sizes.layer_chain * 2 * MiB
    disk_bytes = (sizes.layer_chains + 2) * chain_bytes
    scene = Scene(2 * MiB, 3 * chain_bytes // 2, disk_bytes, layers=_LAYERS)
    return [Measure("layers_first", scene, sizes.disk_runs, first_layer)]


def _demand(sizes: Sizes) -> list[Measure]:
    chains_bytes = sizes.demand_chains * sizes.demand_chain * 2 * MiB
    disk_bytes = (1 + _PUBLISHED_WHILE_FETCHING) * chains_bytes
    scene = Scene(2 * MiB, 3 * chains_bytes // 8, disk_bytes)
    runs = sizes.disk_runs
    return [Measure("demand_p99_under_write_back", scene, runs, demand_p99, _at_most(1.5))]


def _simulator(sizes: Sizes) -> list[Measure]:
    budget = Budget(Bound.LEAST, 0.5, BudgetOf.VALUE)
    scene = Scene(_MATCH_BLOCK_BYTES, MiB)
    return [Measure("simulator_chain_lru", scene, sizes.disk_runs, simulator_rate, budget)]


def _recovery(sizes: Sizes) -> list[Measure]:
    # Each row starts daemons of its own; this one is there because every row has one.
    scene = Scene(_MATCH_BLOCK_BYTES, MiB)
    runs = sizes.disk_runs
    return [
        Measure("recovery_ready", scene, runs, recovery_ready, _value_at_most(5)),
        Measure("recovery_bytes", scene, 1, recovery_bytes, _value_at_most(400)),
        Measure("recovery_match_512", scene, runs, recovery_match, _value_at_most(0.3)),
    ]


def _host_scene(block_bytes: int, sizes: Sizes) -> Scene:
    # One long chain, one batch in short chains, some single blocks; eviction never comes near.
    blocks = 3 * max(sizes.views, sizes.batch)
    return Scene(block_bytes, blocks * block_bytes)


def _batch(sizes: Sizes) -> Callable[[Stage], Figures]:
    return partial(fetch_rate, blocks=sizes.batch, chains=1)


def _few(sizes: Sizes) -> Callable[[Stage], Figures]:
    return partial(fetch_rate, blocks=sizes.few, chains=sizes.batch // sizes.few)


def _at_least(ratio: float) -> Budget:
    return Budget(Bound.LEAST, ratio)


def _at_most(ratio: float) -> Budget:
    return Budget(Bound.MOST, ratio)


def _value_at_most(value: float) -> Budget:
    return Budget(Bound.MOST, value, BudgetOf.VALUE)
