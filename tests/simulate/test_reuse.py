"""Reuse distances tell what LRU hits at every size."""

import pytest

from tests.simulate.oracle import ignore, lru_hits, made_references, random_chains
from tierd_bench.simulate.reuse import measure_reuse


@pytest.mark.parametrize("seed", range(6))
def test_lru_at_every_size(seed: int) -> None:
    chains = random_chains(seed, requests=120)
    references = made_references(chains)
    reuse = measure_reuse(references, ignore)
    for capacity in range(references.unique_blocks + 2):
        assert reuse.lru_hits(capacity) == sum(lru_hits(chains, capacity)), capacity
    assert reuse.first_uses == references.unique_blocks
    assert reuse.references == len(references.blocks)


def test_a_larger_lru_never_hits_less() -> None:
    reuse = measure_reuse(made_references(random_chains(9, requests=200)), ignore)
    hits = [reuse.lru_hits(capacity) for capacity in range(len(reuse.counts))]
    assert hits == sorted(hits)


def test_distances_count_different_blocks_up_to_the_one_used_again() -> None:
    # 0 again at once: 1. Then 1 and 2 between: 0 is 3 apart, and its child 3 was never there.
    reuse = measure_reuse(made_references([[0], [0], [1], [2], [1], [0, 3]]), ignore)
    assert {at: n for at, n in enumerate(reuse.counts.tolist()) if n} == {1: 1, 2: 1, 3: 1}
    assert reuse.by_powers_of_two() == [(1, 1), (2, 1), (4, 1)]


def test_requests_without_blocks_are_passed_over() -> None:
    reuse = measure_reuse(made_references([[], [0], [], [0], []]), ignore)
    assert reuse.lru_hits(1) == 1
