"""Whole runs: nothing is lost, nothing moves faster than it can, and the paper's laws hold.

Small nodes and few agents: the laws do not depend on size, which is why they are tested at sizes
that the paper does not have.
"""

from dataclasses import replace

import pytest

from tierd_bench.cluster.measures import Figures, measure
from tierd_bench.cluster.models import MODELS, Hardware
from tierd_bench.cluster.simulate import BLOCK_TOKENS, Outcome, Scenario, simulate
from tierd_bench.cluster.systems import SYSTEMS
from tierd_bench.cluster.workload import DATASETS


def scenario(system: str, prefill: int = 1, decode: int = 1, agents: int = 12) -> Scenario:
    return Scenario(
        SYSTEMS[system],
        MODELS["ds-27b"],
        DATASETS["32k"],
        prefill,
        decode,
        Hardware.of_gpus(1),
        agents,
    )


def read_tokens(outcome: Outcome) -> int:
    return sum(sum(node.values()) for node in outcome.traffic)


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_every_turn_is_answered_and_every_hit_read_once(system: str) -> None:
    outcome = simulate(scenario(system, 2, 3))
    assert outcome.agents_done == 12
    assert outcome.unfinished == 0
    hits = sum(r.turn.context // BLOCK_TOKENS * BLOCK_TOKENS for r in outcome.finished)
    assert read_tokens(outcome) == (0 if system == "oracle" else hits)
    for r in outcome.finished:
        assert r.submitted <= r.assigned <= r.read <= r.prefilled <= r.finished
        assert r.hit_prefill + r.hit_decode == r.hit
        assert r.left == 0
    engines = {r.pe for r in outcome.finished} | {r.de for r in outcome.finished}
    assert all(engine.tokens == engine.requests == 0 for engine in engines)
    assert all(engine.node.queued == 0 for engine in engines)


@pytest.mark.parametrize("system", ["basic", "two-paths", "dualpath", "two-ended"])
def test_a_storage_nic_never_reads_faster_than_it_can(system: str) -> None:
    outcome = simulate(scenario(system))
    per_s = outcome.scenario.hardware.storage_nic / outcome.scenario.model.kv_bytes_per_token
    # Bytes are counted when a read is done, so a second may hold the end of reads begun before.
    started_before = 3 * 32 * 1024
    for node in outcome.traffic:
        for first in range(0, int(outcome.end_s), 10):
            seconds = range(first, first + 10)
            assert sum(node.get(second, 0) for second in seconds) <= 10 * per_s + started_before


def test_the_seed_decides_everything() -> None:
    first, again = (measure(simulate(scenario("two-ended"))) for _ in range(2))
    other = measure(simulate(replace(scenario("two-ended"), seed=1)))
    assert first == again
    assert other.jct_s != first.jct_s


def busy(system: str, prefill: int, decode: int) -> Figures:
    usable = prefill if system == "basic" else prefill + decode
    made = replace(scenario(system, prefill, decode, 40 * usable), dataset=DATASETS["48k"])
    return measure(simulate(replace(made, hardware=Hardware.of_gpus(1))))


def test_throughput_follows_the_usable_storage_nics() -> None:
    basic, more_decode = busy("basic", 1, 1), busy("basic", 1, 2)
    both, more_prefill = busy("dualpath", 1, 1), busy("basic", 2, 1)
    assert basic.nics_used == pytest.approx(1.0, rel=0.03)
    assert more_decode.nics_used == pytest.approx(basic.nics_used, rel=0.03)
    assert both.nics_used == pytest.approx(2 * basic.nics_used, rel=0.03)
    assert more_prefill.nics_used == pytest.approx(both.nics_used, rel=0.03)


def test_round_robin_over_sides_loads_the_fewer_nodes_more() -> None:
    """Half of the reads on a third of the NICs: the busiest has 1.5 times the mean."""
    in_turn = measure(simulate(scenario("two-paths", 1, 2, 60)))
    shorter = measure(simulate(scenario("dualpath", 1, 2, 60)))
    assert in_turn.nic_max_over_mean == pytest.approx(1.5, abs=0.08)
    assert shorter.nic_max_over_mean < 1.3


def test_free_io_is_never_slower() -> None:
    free = measure(simulate(scenario("oracle")))
    for system in ("basic", "dualpath", "two-ended"):
        assert measure(simulate(scenario(system))).jct_s >= free.jct_s


def test_reading_on_both_sides_halves_the_read_of_a_lone_agent() -> None:
    one_side = measure(simulate(scenario("dualpath", agents=1)))
    both = measure(simulate(scenario("split", agents=1)))
    assert both.read_s == pytest.approx(one_side.read_s / 2, rel=0.05)


def test_a_cache_in_dram_takes_reads_off_storage() -> None:
    outcome = simulate(replace(scenario("dualpath"), cache_bytes=1e12))
    hits = sum(r.hit for r in outcome.finished)
    assert outcome.cached_tokens + read_tokens(outcome) == hits
    assert outcome.cached_tokens > 0.5 * hits


def test_what_storage_no_longer_has_is_computed_again() -> None:
    small = replace(scenario("dualpath"), store_bytes=1e9, tool_s=2.0)
    outcome = simulate(small)
    assert outcome.recomputed_tokens > 0
    assert outcome.agents_done == 12
    whole = simulate(replace(small, store_bytes=0.0))
    assert outcome.end_s > whole.end_s


def test_tools_stretch_the_run_and_leave_the_cluster_idle() -> None:
    with_tools = measure(simulate(replace(scenario("dualpath", agents=40), tool_s=5.0)))
    without = measure(simulate(scenario("dualpath", agents=40)))
    assert with_tools.jct_s > without.jct_s
    assert with_tools.ttft_s < without.ttft_s


def test_agents_that_arrive_at_random_wait_longer_when_more_come() -> None:
    few, many = (
        measure(simulate(replace(scenario("basic", agents=20), arrivals_per_s=rate)))
        for rate in (0.02, 5.0)
    )
    assert few.ttft_s < many.ttft_s
