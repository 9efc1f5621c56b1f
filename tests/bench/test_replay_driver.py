"""A replay hits what an infinite cache hits, whatever overlaps, and counts what goes wrong."""

import time
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from tests.bench.replay_fakes import FakeNamespace
from tierd_bench.replay.agenda import Loop, Pace
from tierd_bench.replay.driver import (
    Drive,
    Driven,
    Driver,
    KeyBook,
    Progress,
    replay_layout,
    users_that_fit,
)
from tierd_bench.replay.samples import Sampler
from tierd_bench.traces import Trace, TraceRequest
from tierd_proto.v1 import tierd_pb2

TOKEN_BYTES = 96
BLOCK_TOKENS = 64
BLOCK_BYTES = TOKEN_BYTES * BLOCK_TOKENS


class QuietDaemon:
    def status(self) -> tierd_pb2.StatusReply:
        return tierd_pb2.StatusReply(boot=b"1")


def agents(sessions: int, turns: int, seed: int = 0) -> Trace:
    """Sessions that share a head, grow by a few blocks a turn, and whose turns interleave."""
    random = Random(seed)
    grown: dict[int, list[int]] = {session: [1, 2, 3] for session in range(sessions)}
    following = [session for session in range(sessions) for _ in range(turns)]
    random.shuffle(following)
    requests = []
    for number, session in enumerate(following):
        grown[session] += [
            (session + 1 << 32) + number * 8 + at for at in range(random.randint(0, 4))
        ]
        requests.append(TraceRequest(f"s{session}", None, tuple(grown[session]), 10))
    return Trace("agents", BLOCK_TOKENS, tuple(requests))


def replay(trace: Trace, target: FakeNamespace, drive: Drive | None = None) -> Driven:
    layout = replay_layout(trace, TOKEN_BYTES)
    driver = Driver(trace, layout, target, drive or Drive(users=4), time.monotonic_ns())
    told: list[Progress] = []
    driven = driver.run(Sampler(QuietDaemon(), time.monotonic_ns), told.append)
    assert told[-1].requests == len(driven.outcomes)
    return driven


def hits(driven: Driven) -> int:
    return sum(outcome.hit for outcome in driven.outcomes)


@pytest.mark.parametrize("loop", list(Loop))
@pytest.mark.parametrize("users", [1, 8])
def test_hits_exactly_what_an_infinite_cache_hits(loop: Loop, users: int) -> None:
    trace = agents(sessions=12, turns=6)
    target = FakeNamespace(BLOCK_BYTES)
    driven = replay(trace, target, Drive(users, Pace(loop=loop)))
    assert sorted(outcome.index for outcome in driven.outcomes) == list(range(72))
    assert hits(driven) == round(trace.infinite_hit_rate * trace.references)
    assert len(target.held) == trace.unique_blocks
    assert sum(outcome.published for outcome in driven.outcomes) == trace.unique_blocks
    assert not any(outcome.corrupt_blocks for outcome in driven.outcomes)


def test_a_second_replay_of_the_same_trace_hits_everything() -> None:
    trace = agents(sessions=3, turns=3)
    target = FakeNamespace(BLOCK_BYTES)
    replay(trace, target)
    assert hits(replay(trace, target)) == trace.references


def test_asks_again_for_slots_that_were_declined() -> None:
    trace = agents(sessions=4, turns=4)
    target = FakeNamespace(BLOCK_BYTES, slots_a_grant=1)
    driven = replay(trace, target, Drive(users=1))
    assert hits(driven) == trace.references - trace.unique_blocks
    assert sum(outcome.published for outcome in driven.outcomes) == trace.unique_blocks
    assert sum(outcome.unpublished for outcome in driven.outcomes) == 0


def test_counts_what_no_slot_came_for() -> None:
    trace = agents(sessions=2, turns=2)
    driven = replay(trace, FakeNamespace(BLOCK_BYTES, slots_a_grant=0), Drive(users=1))
    assert hits(driven) == 0
    assert [o.unpublished for o in driven.outcomes] == [o.asked for o in driven.outcomes]


def test_finds_every_block_that_holds_wrong_bytes() -> None:
    trace = agents(sessions=3, turns=4)
    target = FakeNamespace(BLOCK_BYTES)
    replay(trace, target)
    keys = KeyBook(replay_layout(trace, TOKEN_BYTES).root).chain([1, 3])
    target.held[keys[0]][4096] ^= 1
    target.held[keys[1]][0] ^= 1
    driven = replay(trace, target)
    assert sum(outcome.corrupt_blocks for outcome in driven.outcomes) == 2 * len(trace.requests)
    pages = {page for outcome in driven.outcomes for page in outcome.corrupt_pages}
    assert {(page.key, page.page) for page in pages} == {(keys[0], 1), (keys[1], 0)}


def test_goes_on_while_the_daemon_is_away() -> None:
    trace = agents(sessions=2, turns=3)
    driven = replay(trace, FakeNamespace(BLOCK_BYTES, is_away=True))
    assert len(driven.outcomes) == 6
    assert hits(driven) == 0
    assert Counter(outcome.cut for outcome in driven.outcomes) == {"daemon away": 6}


def test_a_fault_while_publishing_is_counted_and_nothing_more() -> None:
    trace = agents(sessions=2, turns=2)
    driven = replay(trace, FakeNamespace(BLOCK_BYTES, seals_fail=True))
    assert len(driven.outcomes) == 4
    assert all("LeaseExpired" in fault for outcome in driven.outcomes for fault in outcome.faults)
    assert [len(outcome.faults) for outcome in driven.outcomes] == [1, 1, 1, 1]
    assert [o.unpublished for o in driven.outcomes] == [o.asked for o in driven.outcomes]


def test_requests_shorter_than_a_block_are_requests_all_the_same() -> None:
    trace = Trace("short", BLOCK_TOKENS, (TraceRequest("a", None, (), 1),))
    (outcome,) = replay(trace, FakeNamespace(BLOCK_BYTES)).outcomes
    assert (outcome.asked, outcome.hit, outcome.fetch_ns) == (0, 0, 0)


def test_a_fault_of_the_replay_itself_ends_it() -> None:
    trace = agents(sessions=4, turns=4)
    wrong_size = FakeNamespace(BLOCK_BYTES + 1)
    with pytest.raises((ValueError, AssertionError)):
        replay(trace, wrong_size)


def test_layouts_of_other_traces_and_sizes_differ() -> None:
    one, other = agents(2, 2, seed=1), agents(2, 2, seed=2)
    layouts: Sequence[bytes] = [
        replay_layout(one, 96).root,
        replay_layout(other, 96).root,
        replay_layout(one, 97).root,
    ]
    assert len(set(layouts)) == 3
    assert replay_layout(one, 96) == replay_layout(one, 96)


def test_fewer_users_fetch_at_once_where_memory_is_short() -> None:
    trace = Trace("long", BLOCK_TOKENS, (TraceRequest("a", None, tuple(range(10)), 1),))
    layout = replay_layout(trace, TOKEN_BYTES)
    longest = 10 * BLOCK_BYTES
    assert users_that_fit(trace, layout, 8, 100 * longest) == 8
    assert users_that_fit(trace, layout, 8, 3 * longest) == 3
    assert users_that_fit(trace, layout, 8, longest - 1) == 0
