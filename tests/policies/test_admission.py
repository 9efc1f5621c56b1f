"""What is admitted to disk: by how often it was seen, and within a budget of writes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.policies.replaying import zipf
from tierd.control.budget import NS_PER_DAY, WriteBudget
from tierd.core.keys import BlockKey
from tierd_policies.endurance import EnduranceBudget
from tierd_policies.frequency_admission import FrequencyAdmission
from tierd_policies.sketch import FrequencySketch


def key(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(16, "little"))


@given(sightings=st.lists(st.integers(0, 40), max_size=600))
def test_a_sketch_never_says_too_few(sightings: list[int]) -> None:
    sketch = FrequencySketch(64)
    for number in sightings:
        sketch.see(key(number))
    for number in set(sightings):
        assert sketch.count(key(number)) >= min(15, sightings.count(number))


def test_a_sketch_seldom_says_too_many() -> None:
    sketch = FrequencySketch(4096)
    for number in range(1000):
        sketch.see(key(number))
    assert sum(sketch.count(key(number)) > 1 for number in range(1000)) < 10
    assert sum(sketch.count(key(number)) > 0 for number in range(1000, 2000)) < 10


def test_a_sketch_keeps_its_counts_as_it_grows() -> None:
    sketch = FrequencySketch(64)
    for _ in range(3):
        sketch.see(key(1))
    sketch.grow(10_000)
    assert sketch.count(key(1)) == 3


def test_a_sketch_halves_what_was_long_ago() -> None:
    sketch = FrequencySketch(64)
    for _ in range(8):
        sketch.see(key(1))
    for number in range(2, 2 + 64 * 10):
        sketch.see(key(number % 8 + 2))
    assert sketch.count(key(1)) == 4


def test_frequency_admits_from_the_nth_sighting_on() -> None:
    policy = FrequencyAdmission(sightings_min=3)
    assert [policy.admit(key(1)) for _ in range(4)] == [False, False, True, True]


def test_a_full_budget_admits_everything() -> None:
    policy = EnduranceBudget()
    policy.afford(1.0)
    assert all(policy.admit(key(number)) for number in range(100))


def test_a_spent_budget_admits_only_the_best_class() -> None:
    policy = EnduranceBudget()
    policy.afford(-0.5)
    assert not policy.admit(key(1))


def test_under_a_budget_what_is_seen_often_is_written() -> None:
    """A tenth of what is seen may be written: the popular gets it."""
    policy = EnduranceBudget()
    budget = WriteBudget(bytes_per_day=24 * 200)
    source = random.Random(1)
    written: list[int] = []
    asked = 0
    for number in zipf(30_000, 500, seed=1, exponent=1.0):
        once = source.random() < 0.5
        seen = 1000 + asked if once else number
        asked += 1
        now_ns = asked * NS_PER_DAY // (24 * 200) // 10
        policy.afford(budget.left_ratio(now_ns))
        if policy.admit(key(seen)) and budget.allows(now_ns):
            budget.spend(1)
            written.append(seen)
    late = written[len(written) // 2 :]
    assert len(written) <= 200 + asked * 0.1 + 1
    assert len(late) > 100
    assert sum(number >= 1000 for number in late) < len(late) / 10
