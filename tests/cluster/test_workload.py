"""Generated trajectories have the means of the paper's table, all columns at once."""

from random import Random

import pytest

from tierd_bench.cluster.workload import DATASETS, Dataset, agents, means, trajectories


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=list(DATASETS))
def test_means_are_those_of_the_paper(dataset: Dataset) -> None:
    found = means(trajectories(dataset, Random(1)), dataset.longest)
    assert found.turns == pytest.approx(dataset.turns, rel=0.01)
    assert found.total == pytest.approx(dataset.total, rel=0.01)
    assert found.context == pytest.approx(dataset.context, rel=0.02)
    assert found.append == pytest.approx(dataset.append, rel=0.03)
    assert found.generated == pytest.approx(dataset.generated, rel=0.03)


def test_trajectories_differ_and_none_is_longer_than_the_longest() -> None:
    dataset = DATASETS["64k"]
    rows = trajectories(dataset, Random(2))
    turns = [len(row) for row in rows]
    assert max(turns) > 3 * min(turns)
    ends = [row[-1].context + row[-1].append + row[-1].generated for row in rows]
    # Rounding each turn may add a token.
    assert max(ends) <= dataset.longest + max(turns)


def test_a_context_is_all_that_was_said_before() -> None:
    for row in trajectories(DATASETS["32k"], Random(3), 20):
        said = 0
        for turn in row:
            assert turn.context == said
            assert turn.append > 0
            assert turn.generated > 0
            said += turn.append + turn.generated


def test_the_seed_decides() -> None:
    dataset = DATASETS["32k"]
    assert agents(dataset, Random(4), 30) == agents(dataset, Random(4), 30)
    assert agents(dataset, Random(4), 30) != agents(dataset, Random(5), 30)


def test_more_agents_than_trajectories_begin_with_a_round_of_their_own() -> None:
    rows = agents(DATASETS["32k"], Random(6), 510)
    assert len(rows) == 510
    assert [row[0].generated for row in rows[500:]] == [1] * 10
    for row in rows[500:]:
        assert row[1].context == row[0].append + 1
