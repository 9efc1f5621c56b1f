"""Two sizes stand for two tiers: held against the real store on a virtual clock."""

from pathlib import Path

import pytest

from tests.planning.traces import BLOCK_TOKENS, write_trace
from tests.simulate.oracle import random_chains
from tierd_bench.planning.demand import simulate
from tierd_bench.replay.agenda import Pace
from tierd_bench.replay.embedded import EmbeddedSizes
from tierd_bench.simulate.references import references_of
from tierd_bench.simulate.timed import Setting, simulate_timed
from tierd_bench.traces import read_trace

_BLOCK_BYTES = BLOCK_TOKENS * 16384
_SLOT_BYTES = _BLOCK_BYTES + 4096


@pytest.mark.parametrize(("host", "disk"), [(60, 240), (120, 240), (60, 400)])
def test_the_store_hits_and_writes_what_a_plan_says(tmp_path: Path, host: int, disk: int) -> None:
    """At the recorded pace write-back keeps up, and the disk has what host memory has."""
    write_trace(tmp_path / "t.jsonl", random_chains(7, requests=500, branches=4, depth=7))
    trace = read_trace([tmp_path / "t.jsonl"])
    references = references_of(trace, 0, 0)
    count = len(references.blocks)
    assert references.unique_blocks > disk
    planned = simulate(references, host, disk, "chain_lru", lambda done: None)
    sizes = EmbeddedSizes(0, host * _BLOCK_BYTES, disk * _SLOT_BYTES)
    setting = Setting(sizes, 16384, users=8, pace=Pace(1.0))
    store = simulate_timed(trace, setting)
    assert store.hit_rate_by_tier["host"] == pytest.approx(planned.host.sum() / count, abs=0.02)
    assert store.hit_rate_by_tier["disk"] == pytest.approx(planned.disk_reads / count, abs=0.02)
    written = (count - int(planned.together.sum())) * _BLOCK_BYTES
    payload = store.disk_bytes_written / store.write_amplification
    assert payload == pytest.approx(written, rel=0.05)
