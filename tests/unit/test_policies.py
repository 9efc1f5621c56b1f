"""What is admitted to a colder tier, and what is promoted to a hotter one."""

import pytest

from tests.stores import spelled
from tierd.core.keys import BlockKey
from tierd_policies.admission import AlwaysAdmit, SecondTouch
from tierd_policies.promotion import PromoteOnHit

A, B, C = (BlockKey(name) for name in (b"a", b"b", b"c"))


def test_always_admit_admits_at_once() -> None:
    assert all(AlwaysAdmit().admit(key) for key in spelled("chain"))


def test_second_touch_admits_what_comes_back() -> None:
    policy = SecondTouch()
    assert [policy.admit(key) for key in (A, B, A, B)] == [False, False, True, True]


def test_second_touch_starts_anew_after_it_has_admitted() -> None:
    policy = SecondTouch()
    assert [policy.admit(A) for _ in range(4)] == [False, True, False, True]


def test_second_touch_forgets_the_oldest_ghost() -> None:
    policy = SecondTouch(ghosts_max=2)
    assert [policy.admit(key) for key in (A, B, C)] == [False, False, False]
    assert [policy.admit(key) for key in (B, C, A)] == [True, True, False]


@pytest.mark.parametrize(
    ("hits_min", "wanted"),
    [(1, [False, True, True, True]), (2, [False, False, True, True])],
)
def test_promote_on_hit_promotes_from_the_nth_fetch_on(hits_min: int, wanted: list[bool]) -> None:
    policy = PromoteOnHit(hits_min)
    assert [policy.promote(hits) for hits in range(4)] == wanted
