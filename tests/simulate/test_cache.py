"""The fast mode hits what a cache on plain lists hits, request by request."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.simulate.oracle import ignore, lru_hits, made_references, random_chains
from tierd.core.keys import BlockKey
from tierd_bench.simulate.bounds import run_belady
from tierd_bench.simulate.cache import run_policy
from tierd_bench.simulate.references import references_of
from tierd_bench.traces import read_trace
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.registry import EVICTION, eviction

DEMO = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 13, 40, 200])
def test_lru_agrees_with_lists_on_random_trees(seed: int, capacity: int) -> None:
    chains = random_chains(seed, requests=150)
    outcome = run_policy(made_references(chains), ChainLRU, capacity, ignore)
    assert outcome.hits.tolist() == lru_hits(chains, capacity)


@pytest.mark.parametrize("capacity", [4, 20, 60, 150])
def test_lru_agrees_with_lists_on_a_trace(capacity: int) -> None:
    trace = read_trace([DEMO], requests=200)
    outcome = run_policy(references_of(trace, 1, 0), ChainLRU, capacity, ignore)
    chains = [list(request.blocks) for request in trace.requests]
    assert outcome.hits.tolist() == lru_hits(chains, capacity)


@pytest.mark.parametrize("name", EVICTION)
def test_every_policy_stays_between_nothing_and_the_optimum(name: str) -> None:
    references = made_references(random_chains(3, requests=300, branches=4))
    for capacity in (3, 10, 30, 100):
        outcome = run_policy(references, eviction(name), capacity, ignore)
        optimum = run_belady(references, capacity, ignore)
        assert 0 < outcome.hits.sum() <= optimum.hits.sum()
        assert outcome.hits.max() <= capacity


def test_a_cache_for_everything_misses_each_block_once() -> None:
    references = made_references(random_chains(1, requests=100))
    outcome = run_policy(references, ChainLRU, references.unique_blocks, ignore)
    assert outcome.hits.sum() == len(references.blocks) - references.unique_blocks
    assert outcome.evictions == 0


def test_a_chain_longer_than_a_cache_that_has_its_start_tracks_only_what_is_held() -> None:
    # The cache was full with the start of the same chain, so nothing had to be evicted, and the
    # policy was told of the whole chain. Its victims were then blocks that were not there; what
    # was there stayed for ever, and hit again long after others should have taken its place.
    chains = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 4, 5], [0, 1, 2]]
    outcome = run_policy(made_references(chains), ChainLRU, 3, ignore)
    assert outcome.hits.tolist() == [0, 3, 1, 1]


class RootsFirst:
    """A policy of a user's own that thinks nothing of leaves."""

    def __init__(self) -> None:
        self.tracked: dict[BlockKey, None] = {}

    def touch(self, chain: Sequence[BlockKey]) -> None:
        self.tracked.update(dict.fromkeys(chain))

    def cool(self, chain: Sequence[BlockKey]) -> None:
        pass

    def forget(self, key: BlockKey) -> None:
        self.tracked.pop(key, None)

    def victims(self) -> Iterator[BlockKey]:
        return iter(self.tracked)


def test_leaves_go_first_even_if_the_policy_says_otherwise() -> None:
    # Roots first would leave 1 and 2 behind, held and out of reach.
    chains = [[0, 1, 2], [3], [0, 1], [4], [5], [0, 1]]
    outcome = run_policy(made_references(chains), RootsFirst, 4, ignore)
    assert outcome.hits.tolist() == [0, 0, 2, 0, 0, 1]


class KeepsAll(RootsFirst):
    """A policy that gives up nothing."""

    def victims(self) -> Iterator[BlockKey]:
        return iter(())


def test_without_victims_only_what_fits_is_held() -> None:
    chains = [[0, 1], [2, 3, 4], [2, 3, 4], [0, 1]]
    outcome = run_policy(made_references(chains), KeepsAll, 4, ignore)
    assert outcome.hits.tolist() == [0, 0, 2, 2]
    assert outcome.evictions == 0


class Listens(RootsFirst):
    """Writes down what it is told."""

    heard: list[tuple[str, int]]

    def __init__(self) -> None:
        super().__init__()
        self.heard = []

    def touch(self, chain: Sequence[BlockKey]) -> None:
        super().touch(chain)
        self.heard.append(("touch", len(chain)))

    def extend(self, chain: Sequence[BlockKey]) -> None:
        super().touch(chain)
        self.heard.append(("extend", len(chain)))

    def missed(self, keys: Sequence[BlockKey]) -> None:
        self.heard.append(("missed", len(keys)))

    def evicted(self, key: BlockKey) -> None:
        self.forget(key)
        self.heard.append(("evicted", 1))


def test_a_policy_is_told_what_was_used_missed_evicted_and_added() -> None:
    policy = Listens()
    run_policy(made_references([[0, 1], [2], [0, 3]]), lambda: policy, 3, ignore)
    first, second = [("missed", 2), ("touch", 2)], [("missed", 1), ("touch", 1)]
    third = [("missed", 1), ("touch", 1), ("evicted", 1), ("extend", 2)]
    assert policy.heard == first + second + third
