"""Which chains are prefetched, and when; and what is worth promoting."""

import pytest

from tierd.core.keys import BlockKey
from tierd_policies.prefetch import NextTurn, OnHint, QueueLookAhead
from tierd_policies.promotion import NeverPromote, PromoteByCost

A, B, C, D = ([BlockKey(name)] for name in (b"a", b"b", b"c", b"d"))
SECOND = 1_000_000_000


def test_a_fetch_goes_on_where_its_conversation_paused() -> None:
    policy = NextTurn()
    policy.paused([*A, *B], "tool_call", 0)
    policy.fetched([*A, *B, *C, *D], SECOND // 2)
    assert policy.next_ns() is None
    assert policy.due(1000 * SECOND) == []


def test_a_conversation_that_paused_again_is_due_by_its_last_pause() -> None:
    policy = NextTurn()
    policy.paused(A, "tool_call", 0)
    policy.paused(A, "tool_call", SECOND)
    assert policy.due(SECOND) == []
    assert policy.due(2 * SECOND) == [A]


def test_few_are_due_at_once() -> None:
    policy = NextTurn()
    for number in range(20):
        policy.paused([BlockKey(b"%d" % number)], "tool_call", 0)
    assert [len(policy.due(SECOND)) for _ in range(4)] == [8, 8, 4, 0]


@pytest.mark.parametrize("make", [OnHint, NextTurn, QueueLookAhead])
def test_what_is_hinted_is_due_once(make: type[OnHint]) -> None:
    policy = make()
    policy.hinted(A)
    policy.hinted(B)
    assert policy.due(0) == [A, B]
    assert policy.due(0) == []


def test_hints_are_bounded() -> None:
    policy = OnHint(chains_max=2)
    for chain in (A, B, C):
        policy.hinted(chain)
    assert policy.due(0) == [B, C]


def test_a_paused_session_is_due_when_its_turn_is_near() -> None:
    policy = NextTurn()
    policy.paused(A, "tool_call", 0)
    assert policy.next_ns() == SECOND
    assert policy.due(SECOND - 1) == []
    assert policy.due(SECOND) == [A]
    assert policy.due(2 * SECOND) == []
    assert policy.next_ns() is None


def test_pauses_are_learned_for_each_state() -> None:
    policy = NextTurn()
    for turn in range(100):
        start = turn * 1000 * SECOND
        policy.paused(A, "turn_ended", start)
        policy.fetched(A, start + 100 * SECOND)
    now = 100_000 * SECOND
    policy.paused(A, "turn_ended", now)
    policy.paused(B, "tool_call", now)
    assert policy.due(now + 2 * SECOND) == [B]
    assert policy.due(now + 40 * SECOND) == []
    assert policy.due(now + 50 * SECOND) == [A]


def test_a_session_that_came_or_ended_is_not_expected() -> None:
    policy = NextTurn()
    policy.paused(A, "tool_call", 0)
    policy.paused(B, "tool_call", 0)
    policy.fetched(A, SECOND)
    policy.paused(B, "session_ended", SECOND)
    assert policy.due(1000 * SECOND) == []


def test_expected_sessions_are_bounded() -> None:
    policy = NextTurn(paused_max=1)
    policy.paused(A, "tool_call", 0)
    policy.paused(B, "tool_call", 0)
    assert policy.due(1000 * SECOND) == [B]


def test_the_head_of_the_queue_is_due() -> None:
    policy = QueueLookAhead(depth=2)
    for chain in (A, B, C):
        policy.hinted(chain)
    assert policy.due(0) == [A, B]
    assert policy.due(0) == []
    policy.fetched(A, 0)
    assert policy.due(0) == [C]


def test_a_request_that_was_overtaken_is_not_waited_for() -> None:
    policy = QueueLookAhead(depth=2)
    for chain in (A, B, C, D):
        policy.hinted(chain)
    assert policy.due(0) == [A, B]
    policy.fetched(B, 0)
    assert policy.due(0) == [C, D]


def test_a_request_that_overtook_all_is_not_prefetched() -> None:
    policy = QueueLookAhead(depth=1)
    for chain in (A, B, C):
        policy.hinted(chain)
    assert policy.due(0) == [A]
    policy.fetched(B, 0)
    assert policy.due(0) == [C]


def test_never_promotes() -> None:
    assert not any(NeverPromote().promote(hits) for hits in range(10))


def test_promotes_when_the_hits_to_come_pay_for_the_move() -> None:
    policy = PromoteByCost(move_s=3e-3, saved_s=1e-3)
    assert [policy.promote(hits) for hits in range(5)] == [False, False, False, True, True]
