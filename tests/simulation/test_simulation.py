"""A whole daemon, simulated from seeds: it keeps its laws, and in the end answers everybody.

`python -m tests.simulation` runs more seeds.
"""

import pytest

from tests.simulation.run import run_seed

_SEEDS = 200
_CHUNK = 10


@pytest.mark.parametrize("first", range(0, _SEEDS, _CHUNK))
def test_keeps_its_laws_and_answers_everybody(first: int) -> None:
    outcomes = [run_seed(seed) for seed in range(first, first + _CHUNK)]
    assert sum(outcome.blocks_read for outcome in outcomes) > 100


def test_a_seed_gives_the_same_every_time() -> None:
    assert run_seed(7) == run_seed(7)


def test_what_is_simulated_goes_wrong_as_it_should() -> None:
    outcomes = [run_seed(seed) for seed in range(20)]
    assert sum(outcome.spoilt for outcome in outcomes) > 10
    assert sum(outcome.recoveries for outcome in outcomes) > 20
    assert sum(outcome.misses for outcome in outcomes) > 20
