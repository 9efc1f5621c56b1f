"""Requests are handed out in order, at their time, and one of each session at a time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd_bench.replay.agenda import Agenda, Finished, Later, Loop, Pace, Ready
from tierd_bench.traces import TraceRequest

S = 1_000_000_000


def call(session: str, arrival_s: float | None = None, gap_s: float = 0.0) -> TraceRequest:
    return TraceRequest(session, arrival_s, (), 0, gap_s)


def test_takes_the_earliest_request_whose_session_is_free() -> None:
    agenda = Agenda([call("a"), call("b"), call("a"), call("c")], Pace())
    assert [agenda.take(user, 0) for user in range(4)] == [
        Ready(0, 0),
        Ready(1, 0),
        Ready(3, 0),
        Later(None),
    ]
    agenda.end(0, 0, 5)
    assert agenda.take(3, 5) == Ready(2, 0)


def test_finishes_when_all_has_ended_and_not_before() -> None:
    agenda = Agenda([call("a")], Pace())
    assert agenda.take(0, 0) == Ready(0, 0)
    assert agenda.take(1, 0) == Later(None)
    agenda.end(0, 0, 1)
    assert agenda.take(0, 1) == Finished()
    assert agenda.take(1, 1) == Finished()


def test_scales_recorded_arrivals_and_counts_them_from_the_first() -> None:
    agenda = Agenda([call("a", 100.0), call("b", 104.0)], Pace(speed=2.0))
    assert agenda.take(0, 0) == Ready(0, 0)
    assert agenda.take(1, 0) == Later(2 * S)
    assert agenda.take(1, 2 * S) == Ready(1, 2 * S)


def test_a_late_session_is_due_at_its_recorded_time() -> None:
    agenda = Agenda([call("a", 0.0), call("a", 1.0)], Pace(speed=1.0))
    agenda.take(0, 0)
    agenda.end(0, 0, 3 * S)
    assert agenda.take(0, 3 * S) == Ready(1, 1 * S)


def test_keeps_gaps_where_arrivals_are_not_recorded() -> None:
    agenda = Agenda([call("a"), call("a", gap_s=4.0)], Pace(speed=2.0))
    agenda.take(0, 0)
    agenda.end(0, 0, 1 * S)
    assert agenda.take(0, 1 * S) == Later(3 * S)
    assert agenda.take(0, 3 * S) == Ready(1, 3 * S)


def test_in_a_closed_loop_a_user_stays_with_its_session() -> None:
    calls = [call("a"), call("b"), call("c"), call("a")]
    agenda = Agenda(calls, Pace(loop=Loop.CLOSED))
    assert agenda.take(0, 0) == Ready(0, 0)
    assert agenda.take(1, 0) == Ready(1, 0)
    agenda.end(0, 0, 1)
    assert agenda.take(0, 1) == Ready(3, 0)
    agenda.end(1, 1, 1)
    assert agenda.take(1, 1) == Ready(2, 0)
    agenda.end(0, 3, 2)
    assert agenda.take(0, 2) == Finished()


def test_in_a_closed_loop_gaps_are_scaled_and_arrivals_do_not_count() -> None:
    calls = [call("a", 50.0), call("a", 90.0, gap_s=4.0)]
    agenda = Agenda(calls, Pace(speed=4.0, loop=Loop.CLOSED))
    assert agenda.take(0, 0) == Ready(0, 0)
    agenda.end(0, 0, 1 * S)
    assert agenda.take(0, 1 * S) == Later(2 * S)


@pytest.mark.parametrize("loop", list(Loop))
@given(
    sessions=st.lists(st.integers(0, 3), max_size=20),
    users=st.integers(1, 4),
    speed=st.sampled_from([math.inf, 1.0]),
    data=st.data(),
)
def test_every_request_is_handed_out_once_and_in_the_order_of_its_session(
    loop: Loop, sessions: list[int], users: int, speed: float, data: st.DataObject
) -> None:
    calls = [call(str(session), None, 0.5) for session in sessions]
    agenda = Agenda(calls, Pace(speed, loop))
    now_ns = 0
    running: dict[int, int] = {}
    order: list[int] = []
    finished: set[int] = set()
    while len(finished) < users:
        free = [user for user in range(users) if user not in running and user not in finished]
        user = data.draw(st.sampled_from(sorted({*free, *running})))
        if user in running:
            agenda.end(user, running.pop(user), now_ns)
            continue
        step = agenda.take(user, now_ns)
        if isinstance(step, Ready):
            busy = {sessions[index] for index in running.values()}
            assert sessions[step.index] not in busy
            running[user] = step.index
            order.append(step.index)
        elif isinstance(step, Finished):
            finished.add(user)
        elif step.at_ns is not None:
            now_ns = step.at_ns
    assert sorted(order) == list(range(len(calls)))
    for session in set(sessions):
        own = [index for index in order if sessions[index] == session]
        assert own == sorted(own)
