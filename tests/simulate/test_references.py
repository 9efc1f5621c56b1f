"""A trace as numbers: same number, same prefix; requests in the order of time."""

from pathlib import Path

import numpy as np
import pytest

from tests.simulate.oracle import made_references, random_chains, trace_of
from tierd_bench.simulate.order import in_order
from tierd_bench.simulate.references import open_references, references_of
from tierd_bench.traces import Trace, TraceRequest


def test_numbers_stand_for_the_same_prefixes_as_ids() -> None:
    chains = [[7000 + 13 * block for block in chain] for chain in random_chains(2, requests=200)]
    references = made_references(chains)
    assert references.unique_blocks == len({block for chain in chains for block in chain})
    numbers = dict(zip(np.concatenate(chains).tolist(), references.blocks.tolist(), strict=True))
    for request, chain in enumerate(chains):
        found = references.chain(request).tolist()
        assert found == [numbers[block] for block in chain]
        assert [-1, *found[:-1]] == references.parents[found].tolist()


@pytest.mark.parametrize(
    "chains",
    [
        [[1, 2, 3], [1, 4, 3]],  # 3 after 2 and after 4
        [[1, 2, 3], [2, 3]],  # 2 first and second
        [[1, 2, 1, 2]],
        [[1, 2], [9, 2], [1, 2]],
        [[1, 2], [9, 8, 2], [7, 6]],
    ],
)
def test_ids_that_mean_different_prefixes_are_told_apart(chains: list[list[int]]) -> None:
    # Mooncake says that equal ids mean equal prefixes. A hand-made file broke that, and a block
    # hit whose prefix nobody had computed.
    references = made_references(chains)
    numbers = dict[tuple[int, ...], int]()
    for request, chain in enumerate(chains):
        for depth, number in enumerate(references.chain(request).tolist(), start=1):
            assert numbers.setdefault(tuple(chain[:depth]), number) == number
    assert len(set(numbers.values())) == len(numbers) == references.unique_blocks


def test_requests_without_blocks_stay_requests() -> None:
    references = made_references([[], [0, 1], [], [0, 1, 2], []])
    assert [references.chain(request).tolist() for request in range(5)] == [
        [], [0, 1], [], [0, 1, 2], [],
    ]  # fmt: skip


def test_recorded_arrivals_decide_whatever_the_order_in_the_file() -> None:
    requests = [TraceRequest(name, at, (1,), 1) for name, at in (("b", 2.0), ("a", 1.0))]
    ordered, times_s = in_order(requests, overlap=5, seed=0)
    assert [request.session for request in ordered] == ["a", "b"]
    assert times_s.tolist() == [0.0, 1.0]


def _sessions(count: int, turns: int, gap_s: float = 0.0) -> list[TraceRequest]:
    return [
        TraceRequest(f"{name}", None, (name, turn), 50, gap_s if turn else 0.0)
        for name in range(count)
        for turn in range(turns)
    ]


@pytest.mark.parametrize("gap_s", [0.0, 3.0])
def test_sessions_without_a_start_overlap_and_keep_their_order(gap_s: float) -> None:
    requests = _sessions(200, turns=10, gap_s=gap_s)
    ordered, times_s = in_order(requests, overlap=10, seed=1)
    assert times_s.tolist() == sorted(times_s.tolist())
    spans: dict[str, tuple[float, float, list[int]]] = {}
    for request, time_s in zip(ordered, times_s.tolist(), strict=True):
        first, _, turns = spans.get(request.session, (time_s, time_s, []))
        spans[request.session] = (first, time_s, [*turns, request.blocks[1]])
    assert all(turns == list(range(10)) for _, _, turns in spans.values())
    under_way = sum(last - first for first, last, _ in spans.values()) / times_s[-1]
    assert 6 < under_way < 14


def test_the_same_seed_gives_the_same_order() -> None:
    requests = _sessions(20, turns=5)
    one, other, third = (
        [request.blocks for request in in_order(requests, overlap=5, seed=seed)[0]]
        for seed in (3, 3, 4)
    )
    assert one == other != third


def test_no_overlap_keeps_the_order_of_the_file() -> None:
    requests = _sessions(10, turns=4)
    assert in_order(requests, overlap=0, seed=0)[0] == requests


def test_tokens_saved_end_with_the_prompt() -> None:
    requests = (
        TraceRequest("a", 0.0, (1, 2), 5, prompt_tokens=20),
        TraceRequest("b", 1.0, (1, 2, 3), 5),
    )
    references = references_of(Trace("made", 16, requests), 1, 0)
    assert references.tokens_saved(np.array([2, 2], np.int32)).tolist() == [20, 32]
    assert references.prompt_tokens.tolist() == [20, 48]


def test_what_is_saved_opens_again(tmp_path: Path) -> None:
    references = references_of(trace_of([[0, 1], [0, 2]]), 1, 0)
    references.save(tmp_path)
    found = open_references(tmp_path)
    assert found.blocks.tolist() == [0, 1, 0, 2]
    assert found.block_tokens == 16
    assert found.unique_blocks == 3
