"""How much a benchmark moves: enough to mean something, or as little as shows that it works."""

from dataclasses import dataclass
from typing import Final

from tierd.core.units import KiB, MiB


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts are of blocks unless they say otherwise.

    `run_bytes` is what one run moves at least through host memory; `calls` how often a call is
    made in a run where a single one is too short.
    """

    batch: int = 256
    few: int = 16
    views: int = 512
    match: int = 512
    match_long: int = 6250
    disk_chain: int = 128
    disk_chains: int = 6
    dual_chain: int = 128
    dual_chains: int = 7
    dual_learn: int = 4
    layer_chain: int = 64
    layer_chains: int = 7
    demand_chain: int = 8
    demand_chains: int = 64
    demand_fetches: int = 100
    recovered: int = 1_000_000
    simulated_sessions: int = 40
    calls: int = 100
    run_bytes: int = 512 * MiB
    host_runs: int = 15
    disk_runs: int = 5
    one_disk_runs: int = 15


FULL: Final = Sizes()

SMOKE: Final = Sizes(
    batch=8,
    few=2,
    views=8,
    match=16,
    match_long=64,
    disk_chain=4,
    disk_chains=6,
    dual_chain=8,
    dual_chains=7,
    dual_learn=0,
    layer_chain=8,
    layer_chains=7,
    demand_chain=2,
    demand_chains=16,
    demand_fetches=2,
    recovered=20_000,
    simulated_sessions=2,
    calls=2,
    run_bytes=256 * KiB,
    host_runs=1,
    disk_runs=1,
    one_disk_runs=1,
)
