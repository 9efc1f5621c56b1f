"""The store on mediums that fail, stall, wear out and come back, one promise a test."""

from dataclasses import replace

from tests.stores import Driver, page_layout, spelled, store_config, tier
from tierd.control import events as ev
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_S, PAGE_BYTES

LAYOUT = page_layout("model")


def with_disk(host: int = 8, disk: int = 16) -> Driver:
    return Driver(store_config(tier("host", host), tier("disk", disk)), LAYOUT)


def on_disk_only(text: str, host: int = 4) -> Driver:
    """Return a store that found this chain on its disk when it started."""
    driver = Driver(store_config(tier("host", host), tier("disk", 16)))
    keys = spelled(text)
    parents = [LAYOUT.root, *keys]
    stored = [
        ev.StoredCopy(key, BlockKey(parent), slot)
        for slot, (key, parent) in enumerate(zip(keys, parents, strict=False))
    ]
    driver.feed(ev.Recovered(1, "", LAYOUT, 4, stored))
    driver.feed(ev.OpenSession(1, None))
    assert driver.open(LAYOUT) == 0
    return driver


def next_wakeup_ns(driver: Driver) -> int:
    when_ns = driver.store.moves.next_wakeup_ns()
    assert when_ns is not None
    return when_ns


def test_a_failed_write_is_tried_again_later_each_time_and_then_given_up() -> None:
    """One fault of the medium, and the block was never written: a restart lost it."""
    driver = with_disk()
    driver.publish("ab")
    retry_ns = driver.store.config.limits.write_retry_ns
    for rest_ns in (retry_ns, 2 * retry_ns, 4 * retry_ns, 8 * retry_ns):
        driver.end_moves(fault="target")
        assert driver.moves == {}
        assert next_wakeup_ns(driver) == driver.now_ns + rest_ns
        driver.pass_time(rest_ns - 1)
        assert driver.moves == {}
        driver.pass_time(1)
        assert [move.key for move in driver.moves.values()] == spelled("ab")
    driver.end_moves(fault="target")
    driver.pass_time(16 * retry_ns)
    assert driver.moves == {}
    assert driver.store.moves.given_up == [0, 2]
    assert driver.tiers_of("ab") == ("host",)


def test_after_a_write_that_went_well_the_tier_need_not_rest() -> None:
    driver = with_disk()
    driver.publish("abcd")
    first, second, *others = driver.moves
    driver.moves.clear()
    failed = [ev.MoveDone(first, "target"), ev.MoveDone(second, "target")]
    driver.feed(ev.MovesDone([*failed, *(ev.MoveDone(move, None) for move in others)]))
    assert [move.key for move in driver.moves.values()] == spelled("ab")


def test_a_read_only_tier_is_read_and_not_written() -> None:
    driver = on_disk_only("ab", host=8)
    driver.feed(ev.TierReadOnly(1, "ENOSPC"))
    driver.publish("xyz")
    assert driver.moves == {}
    assert driver.fetch("ab").blocks == 2
    assert [(move.source, move.target) for move in driver.moves.values()] == [(1, 0), (1, 0)]
    driver.end_moves()
    assert driver.ask(ev.Persist(1, 50, 0, spelled("xyz"), 1000), ev.Persisted).blocks == 0
    driver.feed(ev.TierRecovered(1))
    driver.settle()
    assert driver.tiers_of("xyz") == ("host", "disk")


def test_what_was_pinned_meanwhile_is_written_too() -> None:
    """It is nobody's victim, so it was not found among those, and a restart lost it."""
    driver = with_disk()
    driver.feed(ev.TierReadOnly(1, "ENOSPC"))
    driver.publish("abc")
    assert driver.ask(ev.Pin(1, 50, 0, spelled("abc"), 1000), ev.Pinned).blocks == 3
    driver.feed(ev.TierRecovered(1))
    driver.settle()
    assert driver.tiers_of("abc") == ("host", "disk")


def test_what_is_queued_for_a_tier_that_becomes_read_only_may_be_evicted() -> None:
    driver = with_disk(host=4)
    driver.publish("abcd")
    driver.feed(ev.TierReadOnly(1, "ENOSPC"))
    driver.end_moves("target")
    assert driver.publish("wxyz") == 4
    assert driver.moves == {}


def test_who_waits_for_a_move_that_stalls_is_told_and_its_slot_stays_apart() -> None:
    """The slot of a read without an answer was free, and the answer came when it was another's."""
    driver = on_disk_only("ab")
    lease = driver.fetch("ab").lease
    first, second = driver.moves
    driver.feed(ev.MovesStalled([first]))
    assert driver.of(ev.Landed) == [ev.Landed(1, lease, failed=(0,))]
    driver.feed(ev.MovesStalled([first, 4711]))
    assert driver.of(ev.Landed) == []
    slots = driver.store.config.tiers[0].bytes_max // PAGE_BYTES
    driver.release(lease)
    text = "".join(chr(ord("A") + at) for at in range(slots))
    assert driver.reserve(text).declined == 2
    driver.feed(ev.MovesDone([ev.MoveDone(first, None), ev.MoveDone(second, None)]))
    assert driver.tiers_of("a") == ("host", "disk")


def test_a_move_that_stalled_is_joined_by_nobody() -> None:
    driver = on_disk_only("a")
    driver.fetch("a")
    driver.feed(ev.MovesStalled(list(driver.moves)))
    fetched = driver.fetch("a")
    assert [(run.tier, run.pending) for run in fetched.runs] == [(1, False)]


def test_a_persist_does_not_wait_for_a_write_that_stalled() -> None:
    driver = with_disk()
    driver.publish("ab")
    driver.feed(ev.Persist(1, 50, 0, spelled("ab"), 1000))
    driver.feed(ev.MovesStalled(list(driver.moves)))
    assert driver.answers() == [ev.Persisted(0)]
    driver.end_moves()
    assert driver.tiers_of("ab") == ("host", "disk")


def test_a_prefetch_that_a_fetch_joins_becomes_demand() -> None:
    driver = on_disk_only("ab")
    driver.feed(ev.Prefetch(0, spelled("ab")))
    first, _ = driver.moves
    driver.fetch("a")
    assert driver.of(ev.Urge) == [ev.Urge((first,))]
    driver.fetch("a")
    assert driver.of(ev.Urge) == []


def with_budget(blocks_an_hour: int) -> Driver:
    disk = replace(tier("disk", 16), write_bytes_per_day=24 * blocks_an_hour * PAGE_BYTES)
    return Driver(store_config(tier("host", 16), disk), LAYOUT)


def test_what_exceeds_the_write_budget_is_not_written() -> None:
    driver = with_budget(blocks_an_hour=3)
    driver.publish("abcde")
    assert [move.key for move in driver.end_moves()] == spelled("abc")
    assert driver.moves == {}
    assert driver.store.moves.unbudgeted == [0, 2]
    driver.now_ns = 3600 * NS_PER_S // 3
    driver.fetch("abcde")
    assert [move.key for move in driver.moves.values()] == spelled("abcd")[3:]


def test_what_must_be_durable_is_written_whatever_the_budget() -> None:
    driver = with_budget(blocks_an_hour=1)
    driver.publish("abc")
    driver.end_moves()
    driver.feed(ev.Persist(1, 50, 0, spelled("abc"), 1000))
    driver.settle()
    assert driver.tiers_of("abc") == ("host", "disk")
    assert driver.store.moves.budgets[1].left_bytes(driver.now_ns) == -2 * PAGE_BYTES
