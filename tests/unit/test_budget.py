"""The write budget: a token bucket whose answer depends on the time alone."""

from hypothesis import given
from hypothesis import strategies as st

from tierd.control.budget import NS_PER_DAY, WriteBudget

HOUR_NS = NS_PER_DAY // 24


def test_none_is_no_limit() -> None:
    budget = WriteBudget(0)
    budget.spend(1 << 60)
    assert budget.allows(0)


def test_an_hours_share_is_in_hand_and_no_more() -> None:
    budget = WriteBudget(2400)
    assert budget.left_bytes(0) == 100
    assert budget.left_bytes(50 * HOUR_NS) == 100


def test_it_fills_evenly() -> None:
    budget = WriteBudget(2400)
    assert budget.allows(0)
    budget.spend(100)
    assert not budget.allows(0)
    assert not budget.allows(HOUR_NS // 100 - 1)
    assert budget.allows(HOUR_NS // 100)
    assert budget.left_bytes(HOUR_NS // 2) == 50


def test_what_had_to_be_written_is_owed() -> None:
    budget = WriteBudget(2400)
    budget.left_bytes(0)
    budget.spend(300)
    assert budget.left_bytes(0) == -200
    assert not budget.allows(2 * HOUR_NS)
    assert budget.left_bytes(3 * HOUR_NS) == 100


@given(st.lists(st.integers(0, HOUR_NS), max_size=20), st.integers(1, 10**15))
def test_how_often_it_is_asked_changes_nothing(steps_ns: list[int], bytes_per_day: int) -> None:
    asked, other = WriteBudget(bytes_per_day), WriteBudget(bytes_per_day)
    for budget in (asked, other):
        budget.left_bytes(0)
        budget.spend(bytes_per_day)
    now_ns = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        asked.allows(now_ns)
    assert asked.left_bytes(now_ns) == other.left_bytes(now_ns)
