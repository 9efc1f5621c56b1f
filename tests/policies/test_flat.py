"""In a flat cache, where no key continues another, each policy is the classic one, hit for hit."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies import oracles
from tests.policies.replaying import Make, flat_hits, scanned, zipf
from tierd.core.keys import BlockKey
from tierd_policies.arc import Arc
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.class_hazard import ClassHazard
from tierd_policies.fifo import Fifo
from tierd_policies.gdsf import Gdsf
from tierd_policies.lfu import Lfu
from tierd_policies.retention import Retention
from tierd_policies.s3_fifo import S3Fifo
from tierd_policies.session_aware import SessionAware
from tierd_policies.sieve import Sieve
from tierd_policies.w_tinylfu import WTinyLfu

PAIRS: dict[str, tuple[Make, oracles.Oracle]] = {
    "chain_lru": (ChainLRU, oracles.lru),
    "class_hazard": (ClassHazard, oracles.lru),
    "session_aware": (SessionAware, oracles.lru),
    "retention": (Retention, oracles.lru),
    "fifo": (Fifo, oracles.fifo),
    "lfu": (Lfu, oracles.lfu),
    "sieve": (Sieve, oracles.sieve),
    "s3_fifo": (S3Fifo, oracles.s3_fifo),
    "arc": (Arc, oracles.arc),
    "w_tinylfu": (WTinyLfu, oracles.w_tinylfu),
    "gdsf": (partial(Gdsf, 1.0, 0.0), oracles.gdsf),
}

traces = st.lists(st.integers(0, 15), max_size=120)


@pytest.mark.parametrize(("make", "oracle"), list(PAIRS.values()), ids=list(PAIRS))
@given(trace=traces, capacity=st.sampled_from([1, 2, 3, 5, 10, 12]))
def test_any_trace_hits_as_the_oracle_says(
    make: Make, oracle: oracles.Oracle, trace: list[int], capacity: int
) -> None:
    assert flat_hits(make, trace, capacity) == oracle(trace, capacity)


@pytest.mark.parametrize("trace", [zipf(3000, 400, 1), scanned(3000, 400, 2)], ids=["zipf", "scan"])
@pytest.mark.parametrize(("make", "oracle"), list(PAIRS.values()), ids=list(PAIRS))
def test_long_traces_hit_as_the_oracle_says(
    make: Make, oracle: oracles.Oracle, trace: list[int]
) -> None:
    assert flat_hits(make, trace, 40) == oracle(trace, 40)


def test_arc_remembers_no_more_missed_ghosts_than_it_has_blocks() -> None:
    """What is missed but never published after all must not add up."""
    policy = Arc()
    keys = [BlockKey(bytes([number])) for number in range(4)]
    for key in keys:
        policy.touch([key])
    policy.touch(keys[1:2])
    for key in (keys[0], keys[2], keys[3]):
        policy.evicted(key)
    policy.missed(keys)
    policy.touch([keys[3]])
    policy.touch([keys[0]])
    assert set(policy.victims()) == {keys[0], keys[1], keys[3]}
