"""What a trace comes to: against a slow cache, and sums done by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.planning.traces import BLOCK_TOKENS, write_trace
from tests.simulate.oracle import lru_hits, random_chains
from tierd_bench.planning.architecture import Architecture, Layers
from tierd_bench.planning.demand import blocks_for, infinite_hit_rate, reuse_of
from tierd_bench.planning.endurance import Endurance, lifetime
from tierd_bench.planning.errors import PlanError
from tierd_bench.planning.machine import Speeds
from tierd_bench.planning.plan import Wish, make_plan
from tierd_bench.planning.report import Report
from tierd_bench.planning.workload import Demand
from tierd_bench.simulate.references import References, references_of
from tierd_bench.simulate.report import facts_of
from tierd_bench.traces import read_trace

_BLOCK_BYTES = BLOCK_TOKENS * 4096
_CHAINS = random_chains(seed=1, requests=60)
_BLOCKS = sum(map(len, _CHAINS))


def _references(path: Path, chains: list[list[int]]) -> References:
    write_trace(path / "t.jsonl", chains)
    return references_of(read_trace([path / "t.jsonl"]), 0, 0)


def _plan(path: Path, chains: list[list[int]] = _CHAINS, tail: int = 5, **more: Any) -> Report:
    write_trace(path / "t.jsonl", chains, tail)
    trace = read_trace([path / "t.jsonl"])
    references = references_of(trace, 0, 0)
    facts = facts_of(trace, references, 4096, 0, 0)
    demand = Demand(references, facts, float(references.times_s[-1]), is_timed=True)
    wish: dict[str, Any] = {
        "architecture": Architecture("m", (Layers(1, 1, 2048),), linear_params=1e6),
        "dtype": "bf16",
        "tensor_parallel": 1,
        "block_tokens": BLOCK_TOKENS,
        "host_bytes": 10 * _BLOCK_BYTES,
        "disk_bytes": 40 * _BLOCK_BYTES,
        # A token is computed in a second; a block is loaded in one, from host and from disk.
        "speeds": Speeds(
            tokens_per_s=1.0, host_bytes_per_s=_BLOCK_BYTES, disk_bytes_per_s=_BLOCK_BYTES
        ),
        "endurance": Endurance(),
    }
    return make_plan("0", Wish(**wish | more), demand, lambda done, total: None)


@pytest.mark.parametrize("seed", range(4))
def test_no_smaller_cache_reaches_a_wanted_hit_rate(tmp_path: Path, seed: int) -> None:
    chains = random_chains(seed, requests=60)
    references = _references(tmp_path, chains)
    reuse = reuse_of(references, lambda done: None)
    everything = infinite_hit_rate(references)
    for share in (0.1, 0.5, 0.9, 1.0):
        blocks = blocks_for(reuse, share * everything)
        assert blocks is not None
        wanted = round(share * everything * len(references.blocks), 6)
        assert sum(lru_hits(chains, blocks)) >= wanted
        assert blocks == 0 or sum(lru_hits(chains, blocks - 1)) < wanted
    assert blocks_for(reuse, everything + 0.01) is None


def test_tiers_hit_what_a_slow_cache_hits(tmp_path: Path) -> None:
    work = _plan(tmp_path).workload
    assert work is not None
    host, both = sum(lru_hits(_CHAINS, 10)), sum(lru_hits(_CHAINS, 40))
    assert 0 < host < both
    assert work.hit_rates["host"] == pytest.approx(host / _BLOCKS)
    assert work.hit_rates["disk"] == pytest.approx((both - host) / _BLOCKS)
    assert work.hit_rate <= work.optimum <= work.infinite_hit_rate
    assert work.optimum_share == pytest.approx(work.hit_rate / work.optimum)


def test_first_tokens_wait_for_loading_and_for_the_rest(tmp_path: Path) -> None:
    work = _plan(tmp_path).workload
    assert work is not None
    prompts = [BLOCK_TOKENS * len(chain) + 5 for chain in _CHAINS]
    latency_s = {"host": 2e-6, "disk": 100e-6}
    host, both = lru_hits(_CHAINS, 10), lru_hits(_CHAINS, 40)
    waits: dict[str, list[float]] = {"no cache": [], "host": [], "host and disk": []}
    for prompt, warm, held in zip(prompts, host, both, strict=True):
        waits["no cache"].append(prompt)
        warm_s = warm + latency_s["host"] if warm else 0.0
        waits["host"].append(prompt - BLOCK_TOKENS * warm + warm_s)
        cold_s = held - warm + latency_s["disk"] if held > warm else 0.0
        waits["host and disk"].append(prompt - BLOCK_TOKENS * held + warm_s + cold_s)
    for one in work.ttft:
        assert one.mean_s == pytest.approx(float(np.mean(waits.pop(one.tiers))))
    assert not waits
    assert work.ttft[0].busy_s == pytest.approx(sum(prompts))
    busy_s = sum(prompts) - BLOCK_TOKENS * sum(both)
    assert work.ttft[-1].engines_busy == pytest.approx(busy_s / 59)


def test_of_a_prompt_that_is_all_there_one_token_is_computed(tmp_path: Path) -> None:
    work = _plan(tmp_path, chains=[[1, 11], [1, 11]], tail=0).workload
    assert work is not None
    # Two blocks are computed, then loaded: an engine needs a token to go on from.
    assert work.ttft[-1].every_s == pytest.approx((2 * BLOCK_TOKENS, 2 + 2e-6 + 1))


def test_a_disk_slower_than_computing_is_not_read(tmp_path: Path) -> None:
    slow = Speeds(
        tokens_per_s=BLOCK_TOKENS,
        host_bytes_per_s=10 * _BLOCK_BYTES,
        disk_bytes_per_s=0.9 * _BLOCK_BYTES,
    )
    report = _plan(tmp_path, speeds=slow)
    work = report.workload
    assert work is not None
    assert work.lifetime is not None
    assert work.lifetime.bytes_read == 0
    _, host, both = work.ttft
    assert (both.mean_s, both.busy_s) == (host.mean_s, host.busy_s)
    assert [one.tokens for one in report.break_evens] == [BLOCK_TOKENS, None]


def test_what_was_missed_is_written(tmp_path: Path) -> None:
    work = _plan(tmp_path, endurance=Endurance(tbw=1.0)).workload
    assert work is not None
    assert work.lifetime is not None
    missed = _BLOCKS - sum(lru_hits(_CHAINS, 40))
    assert work.lifetime.bytes_written == missed * _BLOCK_BYTES
    # Sixty requests, one a second: 59 seconds from the first to the last.
    a_day = missed * _BLOCK_BYTES * 86400 / 59
    assert work.lifetime.years == pytest.approx(1e12 / a_day / 365.25)
    paced = _plan(tmp_path, endurance=Endurance(tbw=1.0), requests_per_day=60.0).workload
    assert paced is not None
    assert paced.lifetime is not None
    assert paced.lifetime.bytes_per_day == pytest.approx(missed * _BLOCK_BYTES)


def test_a_disk_written_once_a_day_lives_as_long_as_its_warranty() -> None:
    life = lifetime(written=100, read=0, seconds=86400, disk_bytes=100, endurance=Endurance())
    assert life.years == pytest.approx(5)
    assert life.drive_writes_per_day == pytest.approx(1)
    rated = lifetime(50, 0, 86400, 100, Endurance(dwpd=3))
    assert rated.years == pytest.approx(30)
    assert lifetime(0, 0, 86400, 100, Endurance()).years is None


@pytest.mark.parametrize(("host", "disk"), [(10, 0), (0, 10), (40, 10)])
def test_tiers_may_be_missing_or_upside_down(tmp_path: Path, host: int, disk: int) -> None:
    host_bytes, disk_bytes = host * _BLOCK_BYTES, disk * _BLOCK_BYTES
    work = _plan(tmp_path, host_bytes=host_bytes, disk_bytes=disk_bytes).workload
    assert work is not None
    hits = sum(lru_hits(_CHAINS, max(host, disk)))
    assert work.hit_rate == pytest.approx(hits / _BLOCKS)
    assert (work.hit_rates["disk"] > 0) == (disk > host)
    assert (work.lifetime is None) == (disk == 0)


def test_the_smallest_tiers_count_host_memory_first(tmp_path: Path) -> None:
    work = _plan(tmp_path, hit_rates=(0.01, 0.5, 1.0)).workload
    assert work is not None
    little, more, everything = work.needed
    assert little.disk_bytes == 0
    assert little.host_alone_bytes
    assert more.disk_bytes == more.host_alone_bytes
    assert more.disk_bytes
    assert everything.blocks is None


def test_a_single_request_has_no_pace(tmp_path: Path) -> None:
    report = _plan(tmp_path, chains=[[1, 11, 111]])
    assert report.workload is not None
    assert report.workload.lifetime is None
    assert report.workload.ttft[0].engines_busy is None
    assert any("--requests-per-day" in one.origin for one in report.settings)


def test_a_trace_without_repeats_needs_no_tiers(tmp_path: Path) -> None:
    work = _plan(tmp_path, chains=[[1], [2], [3]]).workload
    assert work is not None
    assert (work.infinite_hit_rate, work.hit_rate, work.needed) == (0.0, 0.0, ())
    assert (work.optimum_share, work.infinite_share) == (1.0, 1.0)


def test_tiers_smaller_than_a_block_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no block of 64 KiB fits") as caught:
        _plan(tmp_path, host_bytes=1000, disk_bytes=0)
    assert "--block-tokens" in caught.value.remedy


def test_prompts_beyond_the_context_are_told(tmp_path: Path) -> None:
    short = Architecture("m", (Layers(1, 1, 2048),), linear_params=1e6, context_tokens=40)
    longer = sum(BLOCK_TOKENS * len(chain) + 5 > 40 for chain in _CHAINS)
    notes = _plan(tmp_path, architecture=short).notes
    assert any(note.startswith(f"{longer} of 60 prompts") for note in notes)


def test_a_machine_that_cannot_keep_up_is_told(tmp_path: Path) -> None:
    notes = "; ".join(_plan(tmp_path).notes)
    assert "engines busy even with these tiers" in notes
    assert "the disk is asked for" in notes
    idle = "; ".join(_plan(tmp_path, requests_per_day=10.0).notes)
    assert "busy" not in idle
    assert "the disk is asked for" not in idle
