"""No cache does better than the bounds, and one does as well."""

import pytest

from tests.simulate.oracle import ignore, made_references, most_hits, random_chains
from tierd_bench.simulate.bounds import infinite_hits, run_belady
from tierd_bench.simulate.cache import run_policy
from tierd_policies.chain_lru import ChainLRU


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 5])
def test_belady_is_the_most_that_any_choice_of_victims_can_hit(seed: int, capacity: int) -> None:
    chains = random_chains(seed, requests=14, branches=3, depth=4)
    outcome = run_belady(made_references(chains), capacity, ignore)
    assert outcome.hits.sum() == most_hits(chains, capacity)


def test_belady_knows_better_than_lru() -> None:
    chains = [[0], [1], [2], [0], [1], [2], [0], [1], [2]]
    references = made_references(chains)
    assert run_policy(references, ChainLRU, 2, ignore).hits.sum() == 0
    assert run_belady(references, 2, ignore).hits.sum() == 3


def test_with_room_for_all_belady_is_the_infinite_cache() -> None:
    references = made_references(random_chains(5, requests=200))
    outcome = run_belady(references, references.unique_blocks, ignore)
    assert outcome.hits.sum() == infinite_hits(references)
    assert outcome.evictions == 0


def test_the_infinite_cache_agrees_with_the_trace() -> None:
    from tests.simulate.oracle import trace_of

    chains = random_chains(6, requests=80)
    references = made_references(chains)
    rate = infinite_hits(references) / len(references.blocks)
    assert rate == pytest.approx(trace_of(chains).infinite_hit_rate)
