"""The paper's scheduler, rule by rule (A to D), on engines set up by hand."""

from collections.abc import Callable

from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.models import Hardware
from tierd_bench.cluster.parts import Engine, Group, Request, make_engines, make_nodes
from tierd_bench.cluster.scheduler import (
    PaperScheduler,
    RoundRobin,
    Thresholds,
    pick_decode,
    pick_prefill,
)
from tierd_bench.cluster.workload import Turn

LIMITS = Thresholds(short_queue_tokens=1000, load_cap_tokens=500)


def engines(loop: Loop, count: int) -> list[Engine]:
    hardware = Hardware.of_gpus(1)
    return make_engines(loop, hardware, make_nodes(loop, hardware, count, 0))


def request(prompt: int = 100) -> Request:
    return Request(0, Turn(prompt - 10, 10, 5), hit=prompt - 10, submitted=0.0)


def test_overloaded_engines_get_nothing() -> None:
    first, second = engines(Loop(), 2)
    first.tokens, second.tokens = 501, 500
    assert pick_prefill([first, second], LIMITS) is second
    second.tokens = 501
    assert pick_prefill([first, second], LIMITS) is None


def test_an_engine_with_a_short_read_queue_goes_before_one_with_less_load() -> None:
    busy_nic, busy_gpu = engines(Loop(), 2)
    busy_nic.node.queued = 1001
    busy_gpu.tokens = 400
    assert pick_prefill([busy_nic, busy_gpu], LIMITS) is busy_gpu
    busy_nic.node.queued = 1000
    assert pick_prefill([busy_nic, busy_gpu], LIMITS) is busy_nic


def test_with_long_queues_everywhere_the_least_loaded_engine_is_taken() -> None:
    first, second = engines(Loop(), 2)
    first.node.queued = second.node.queued = 5000
    first.tokens = 10
    assert pick_prefill([first, second], LIMITS) is second


def test_among_lightly_loaded_decode_engines_fewest_requests_win() -> None:
    few_tokens, few_requests = engines(Loop(), 2)
    few_tokens.tokens, few_tokens.requests = 100, 9
    few_requests.tokens, few_requests.requests = 300, 2
    free = {0: 1000, 1: 1000}
    assert pick_decode([few_tokens, few_requests], free, 50, light=400) is few_requests


def test_among_heavily_loaded_decode_engines_fewest_tokens_win() -> None:
    few_tokens, few_requests = engines(Loop(), 2)
    few_tokens.tokens, few_tokens.requests = 400, 9
    few_requests.tokens, few_requests.requests = 500, 2
    free = {0: 1000, 1: 1000}
    assert pick_decode([few_tokens, few_requests], free, 50, light=100) is few_tokens


def test_a_decode_engine_without_memory_is_not_taken() -> None:
    pair = engines(Loop(), 2)
    assert pick_decode(pair, {0: 49, 1: 50}, 50, light=1000) is pair[1]
    assert pick_decode(pair, {0: 49, 1: 49}, 50, light=1000) is None


def paper_scheduler(
    loop: Loop,
    prefill: list[Group],
    decode: list[Group],
    place: Callable[[Request], None],
    free: int = 10**6,
) -> PaperScheduler:
    return PaperScheduler(loop, prefill, decode, LIMITS, lambda _: free, place)


def test_requests_are_placed_in_order_once_both_engines_are_known() -> None:
    loop = Loop()
    placed: list[Request] = []
    made = engines(loop, 4)
    scheduler = paper_scheduler(loop, [Group(made[:2])], [Group(made[2:])], placed.append)
    asked = [request() for _ in range(4)]
    for one in asked:
        scheduler.submit(one)
    assert not placed
    loop.run(until=1.0)
    assert placed == asked
    assert {one.pe for one in placed} == set(made[:2])
    assert {one.de for one in placed} == set(made[2:])


def test_what_overloaded_engines_cannot_take_waits_until_they_can() -> None:
    loop = Loop()
    placed: list[Request] = []
    prefill, decode = engines(loop, 2)
    scheduler = paper_scheduler(loop, [Group([prefill])], [Group([decode])], placed.append)
    prefill.tokens = 501
    scheduler.submit(request())
    loop.run(until=1.0)
    assert not placed
    prefill.tokens = 0
    loop.run(until=2.0)
    assert len(placed) == 1


def test_decode_groups_share_by_tokens_not_by_count() -> None:
    loop = Loop()
    placed: list[Request] = []
    made = engines(loop, 3)
    groups = [Group([made[1]]), Group([made[2]])]
    scheduler = paper_scheduler(loop, [Group(made[:1])], groups, placed.append)
    long, *short = [request(300), request(100), request(100)]
    for one in (long, *short):
        scheduler.submit(one)
    loop.run(until=1.0)
    assert long.de is made[1]
    assert [one.de for one in short] == [made[2], made[2]]


def test_without_memory_a_decode_group_keeps_its_queue() -> None:
    loop = Loop()
    placed: list[Request] = []
    prefill, decode = engines(loop, 2)
    groups = [Group([prefill])], [Group([decode])]
    scheduler = paper_scheduler(loop, *groups, placed.append, free=99)
    scheduler.submit(request(100))
    loop.run(until=1.0)
    assert not placed


def test_round_robin_goes_in_turn_whatever_the_load() -> None:
    placed: list[Request] = []
    made = engines(Loop(), 4)
    made[0].tokens = 10**9
    scheduler = RoundRobin(made[:2], made[2:], placed.append)
    for _ in range(4):
        scheduler.submit(request())
    assert [one.pe for one in placed] == [made[0], made[1]] * 2
    assert [one.de for one in placed] == [made[2], made[3]] * 2
