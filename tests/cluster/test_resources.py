"""Fluid resources: everyone gets an even share, nothing is lost, no more than the capacity moves.

The oracle advances all jobs from one end to the next by hand; it shares no code with the resource,
which keeps one number for all of them.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.resources import Join, Shared, link, transfer

Job = tuple[float, float]
"""Start and size."""


def ends(jobs: list[Job], capacity: float) -> list[float]:
    loop = Loop()
    resource = link(loop, capacity)
    found = [0.0] * len(jobs)

    def begin(place: int) -> None:
        resource.add(jobs[place][1], Join(1, end, place))

    def end(place: int) -> None:
        found[place] = loop.now

    for place, (start, _) in enumerate(jobs):
        loop.at(start, begin, place)
    loop.run()
    assert not len(resource)
    return found


def ends_by_hand(jobs: list[Job], capacity: float) -> list[float]:
    left = [size for _, size in jobs]
    found = [0.0] * len(jobs)
    now = 0.0
    waiting = sorted(range(len(jobs)), key=lambda place: jobs[place][0])
    active: list[int] = []
    while waiting or active:
        arrival = jobs[waiting[0]][0] if waiting else float("inf")
        share = capacity / len(active) if active else 0.0
        ending = min((now + left[p] / share for p in active), default=float("inf"))
        step = min(arrival, ending)
        for place in active:
            left[place] -= (step - now) * share
        now = step
        if ending <= arrival:
            gone = min(active, key=lambda place: left[place])
            found[gone] = now
            active.remove(gone)
        else:
            active.append(waiting.pop(0))
    return found


def test_two_jobs_share_evenly() -> None:
    assert ends([(0.0, 10.0), (0.0, 10.0)], 10.0) == pytest.approx([2.0, 2.0], abs=1e-4)


def test_a_late_job_takes_half_from_then_on() -> None:
    assert ends([(0.0, 10.0), (0.5, 2.5)], 10.0) == pytest.approx([1.25, 1.0], abs=1e-4)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50)), min_size=1, max_size=12),
    st.integers(1, 20),
)
def test_jobs_end_when_they_do_by_hand(jobs: list[tuple[int, int]], capacity: int) -> None:
    given_jobs = [(float(start), float(size)) for start, size in jobs]
    wanted = ends_by_hand(given_jobs, capacity)
    assert ends(given_jobs, capacity) == pytest.approx(wanted, abs=1e-3)


def test_a_transfer_is_over_when_its_slowest_resource_is() -> None:
    loop = Loop()
    fast, slow = link(loop, 100.0), link(loop, 10.0)
    over: list[float] = []
    transfer({fast: 50.0, slow: 50.0}, lambda _: over.append(loop.now))
    loop.run()
    assert over == pytest.approx([5.0], abs=1e-4)


def test_what_one_resource_finished_early_is_free_for_others() -> None:
    loop = Loop()
    fast, slow = link(loop, 100.0), link(loop, 10.0)
    over: list[tuple[str, float]] = []
    transfer({fast: 100.0, slow: 100.0}, lambda name: over.append((name, loop.now)), "both")
    transfer({fast: 500.0}, lambda name: over.append((name, loop.now)), "alone")
    loop.run()
    # Of the fast one's 600 bytes none waited for the slow one.
    assert [name for name, _ in over] == ["alone", "both"]
    assert [at for _, at in over] == pytest.approx([6.0, 10.0], abs=1e-3)


def test_a_pace_that_falls_with_company() -> None:
    loop = Loop()
    batch = Shared(loop, lambda jobs: 1 / (1 + jobs))
    over: list[float] = []
    for _ in range(2):
        batch.add(1.0, Join(1, lambda _: over.append(loop.now), None))
    loop.run()
    assert over == pytest.approx([3.0, 3.0], abs=1e-4)
