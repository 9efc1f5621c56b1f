"""A study's figures are those of its runs, in one process or several; a sample's are near."""

import csv
import io

import pytest

from tests.simulate.oracle import ignore, made_references, random_chains, trace_of
from tierd_bench.simulate.cache import run_policy
from tierd_bench.simulate.capacities import BadCapacity, Size, curve, read_capacity
from tierd_bench.simulate.report import Report, facts_of
from tierd_bench.simulate.reuse import measure_reuse
from tierd_bench.simulate.sampling import halves_of
from tierd_bench.simulate.study import Study, simulate
from tierd_policies.registry import eviction

CHAINS = random_chains(4, requests=300, branches=5)
SIZES = (Size(10, 0.05), Size(40, 0.2))


def study(policies: tuple[str, ...] = ("chain_lru", "lfu"), **more: float | int) -> Report:
    trace, references = trace_of(CHAINS), made_references(CHAINS)
    wanted = Study(policies, SIZES, **more)  # type: ignore[arg-type]
    return simulate(references, facts_of(trace, references, 1024, 1, 0), wanted, ignore)


def test_rates_are_hits_over_references() -> None:
    references = made_references(CHAINS)
    report = study()
    assert [(run.policy, run.capacity_blocks) for run in report.runs] == [
        ("chain_lru", 10), ("chain_lru", 40), ("lfu", 10), ("lfu", 40),
    ]  # fmt: skip
    for run in report.runs:
        outcome = run_policy(references, eviction(run.policy), run.capacity_blocks, ignore)
        assert run.hit_rate == outcome.hits.sum() / len(references.blocks)
        assert run.tokens_saved == 16 * outcome.hits.sum()
        assert run.token_hit_rate == pytest.approx(run.hit_rate)
        assert run.evictions == outcome.evictions
        assert run.saved[-1] == run.tokens_saved
        assert list(run.saved) == sorted(run.saved)
        assert run.capacity_bytes == run.capacity_blocks * 16 * 1024


def test_bounds_are_above_and_lru_is_among_them() -> None:
    report = study()
    for run in report.runs:
        bound = next(b for b in report.bounds if b.capacity_blocks == run.capacity_blocks)
        assert run.hit_rate <= bound.belady <= report.infinite_hit_rate
        assert run.optimum_share == run.hit_rate / bound.belady
        if run.policy == "chain_lru":
            assert run.hit_rate == bound.chain_lru


def test_several_processes_come_to_the_same() -> None:
    here, there = study(processes=1), study(processes=2)
    assert [run.hit_rate for run in here.runs] == [run.hit_rate for run in there.runs]
    assert here.bounds == there.bounds


def test_the_json_has_three_parts_and_a_run_says_what_it_is() -> None:
    values = study().as_json()
    assert list(values) == ["trace", "bounds", "runs"]
    assert set(values["bounds"]) == {"infinite", "belady", "chain_lru"}
    assert {"policy", "capacity_blocks", "capacity_share", "hit_rate"} <= set(values["runs"][0])
    assert values["trace"]["unique_blocks"] == made_references(CHAINS).unique_blocks
    counted = sum(row["references"] for row in values["trace"]["reuse_distances"])
    assert counted + values["trace"]["first_uses"] == values["trace"]["block_references"]


def test_the_csv_has_a_row_for_each_run_and_bound() -> None:
    report = study()
    rows = list(csv.DictReader(io.StringIO(report.as_csv())))
    assert [row["kind"] for row in rows] == ["bound"] * 6 + ["policy"] * 4
    assert float(rows[-1]["hit_rate"]) == report.runs[-1].hit_rate


def test_halves_share_no_block_and_stay_chains() -> None:
    references = made_references(CHAINS)
    one, other = halves_of(references, 0.6)
    assert 0 < one.unique_blocks < references.unique_blocks * 0.4
    assert one.unique_blocks + other.unique_blocks < references.unique_blocks
    for half in (one, other):
        for request in range(half.requests):
            chain = half.chain(request).tolist()
            assert [-1, *chain][: len(chain)] == half.parents[chain].tolist()


def test_a_sample_of_everything_in_halves_adds_up_to_the_whole() -> None:
    references = made_references(CHAINS)
    halves = halves_of(references, 1.0)
    assert sum(half.unique_blocks for half in halves) == references.unique_blocks
    assert sum(len(half.blocks) for half in halves) == len(references.blocks)


def test_a_sample_is_near_the_truth_and_says_how_near() -> None:
    chains = random_chains(8, requests=4000, branches=7, depth=8)
    trace, references = trace_of(chains), made_references(chains)
    facts = facts_of(trace, references, 1, 1, 0)
    sizes = tuple(Size(references.unique_blocks * part // 10, part / 10) for part in (1, 3, 5))
    exact = simulate(references, facts, Study(("lfu", "chain_lru"), sizes), ignore)
    sampled = simulate(references, facts, Study(("lfu", "chain_lru"), sizes, 0.4), ignore)
    for run, truth in zip(sampled.runs, exact.runs, strict=True):
        assert run.hit_rate == pytest.approx(truth.hit_rate, abs=0.03)
        assert run.error is not None
        assert run.error < 0.05
        assert run.tokens_saved is None
    reuse = measure_reuse(references, ignore)
    for run in sampled.runs[3:]:
        # LRU is known, sample or not.
        assert run.hit_rate * len(references.blocks) == pytest.approx(
            reuse.lru_hits(run.capacity_blocks)
        )


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("10%", 100),
        ("100%", 1000),
        ("0.29%", 2),
        ("29%", 290),
        ("0.01%", 1),
        ("1MiB", 256),
        ("1.5 MiB", 384),
        ("4kib", 1),
        ("1GB", 244140),
        ("5000", 5000),
        ("5_000", 5000),
    ],
)
def test_capacities_are_shares_sizes_or_blocks(text: str, blocks: int) -> None:
    assert read_capacity(text).size(unique_blocks=1000, block_bytes=4096).blocks == blocks


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-5", "1.5", "10 apples", "nan", "%"])
def test_what_is_no_capacity_is_refused(text: str) -> None:
    with pytest.raises(BadCapacity):
        read_capacity(text)


def test_a_curve_goes_up_to_everything() -> None:
    shares = [capacity.amount for capacity in curve(9)]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.005)
    assert shares[-1] == pytest.approx(1.0)
