"""What the store promises, one promise a test. Keys are spelled as their path from the root."""

import pytest

from tests.stores import (
    READ_LEASE_NS,
    WRITE_LEASE_NS,
    Driver,
    page_layout,
    spelled,
    store_config,
    tier,
)
from tierd.control import events as ev
from tierd.control.config import Limits
from tierd.control.persisting import Persisting
from tierd.control.policies import Policies
from tierd.core.errors import LeaseExpired, NamespaceConflict, Overloaded
from tierd.core.keys import BlockKey
from tierd_policies.admission import SecondTouch
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.promotion import PromoteOnHit

LAYOUT = page_layout("model")


def host_only(slots: int = 8, limits: Limits | None = None) -> Driver:
    return Driver(store_config(tier("host", slots), limits=limits), LAYOUT)


def with_disk(host: int = 8, disk: int = 16) -> Driver:
    return Driver(store_config(tier("host", host), tier("disk", disk)), LAYOUT)


def on_disk_only(*texts: str, host: int = 4) -> Driver:
    """Return a store that found these chains on its disk when it started."""
    driver = Driver(store_config(tier("host", host), tier("disk", 16)))
    copies = {key: key[:-1] or LAYOUT.root for text in texts for key in spelled(text)}
    stored = [ev.StoredCopy(k, BlockKey(p), slot) for slot, (k, p) in enumerate(copies.items())]
    driver.feed(ev.Recovered(1, "", LAYOUT, 4, stored))
    driver.feed(ev.OpenSession(1, None))
    assert driver.open(LAYOUT) == 0
    return driver


# ---- publish and fetch


def test_what_is_published_can_be_fetched() -> None:
    driver = host_only()
    assert driver.publish("abc") == 3
    fetched = driver.fetch("abcd")
    assert fetched.blocks == 3
    assert fetched.runs == (ev.Run(tier=0, slot=0, count=3, pending=False),)
    matched = driver.ask(ev.Match(1, 9, 0, spelled("abcd")), ev.Matched)
    assert matched == ev.Matched(3, (3,))


def test_a_miss_is_an_ordinary_answer() -> None:
    driver = host_only()
    assert driver.fetch("abc") == ev.Fetched(0, 0, 0, (), None)
    assert driver.fetch("") == ev.Fetched(0, 0, 0, (), None)


def test_nothing_is_seen_before_it_is_sealed() -> None:
    driver = host_only()
    reserved = driver.reserve("ab")
    assert driver.fetch("ab").blocks == 0
    driver.release(reserved.lease)
    assert driver.fetch("ab").blocks == 0
    assert driver.store.room.spaces[0][0].used == 0


def test_keys_that_are_no_chain_are_no_prefix() -> None:
    driver = host_only()
    driver.publish("abc")
    whole = spelled("abc")
    for keys, blocks in [([whole[0], whole[2]], 1), (whole[1:], 0), ([whole[0], whole[0]], 1)]:
        fetched = driver.ask(ev.Fetch(1, 9, 0, keys, 0, None), ev.Fetched)
        assert fetched.blocks == blocks


def test_no_chain_leads_through_another_namespace() -> None:
    """A client that knew keys of a namespace could hang its own blocks on the blocks of others."""
    driver = host_only()
    driver.publish("ab")
    other = driver.open(page_layout("other"))
    foreign, own = spelled("ab"), BlockKey(b"x")
    asked = ev.Reserve(1, 9, other, [*foreign, own], 0, 0)
    assert driver.ask(asked, ev.Reserved) == ev.Reserved(0, (), 0)


def test_a_key_asked_for_twice_is_reserved_once() -> None:
    driver = host_only()
    key = BlockKey(b"a")
    reserved = driver.ask(ev.Reserve(1, 9, 0, [key, key], 0, 0), ev.Reserved)
    assert reserved.grants == (ev.Grant(0, 0, 1),)


def test_blocks_before_the_first_wanted_are_leased_and_no_more() -> None:
    driver = on_disk_only("abcd")
    fetched = driver.ask(driver.fetch_event("abcdef", first=2), ev.Fetched)
    assert fetched.blocks == 4
    assert [(run.count, run.pending) for run in fetched.runs] == [(2, True)]
    assert sorted(move.key for move in driver.moves.values()) == [b"abc", b"abcd"]
    counts = driver.store.counts[0]
    assert (counts.tokens_asked, counts.tokens_hit[1], counts.tokens_missed) == (16, 8, 8)
    lease = driver.store.leases.leases[fetched.lease]
    assert len(lease.blocks) == 4, "parents stay, too"
    # What was not brought was not promised either.
    driver.feed(ev.ReadFailed(1, fetched.lease, 0))
    assert counts.tokens_hit[1] == 8


def test_a_fetch_of_what_the_client_has_brings_nothing() -> None:
    driver = host_only()
    driver.publish("ab")
    fetched = driver.ask(driver.fetch_event("abc", first=2), ev.Fetched)
    assert (fetched.lease, fetched.blocks, fetched.runs) == (0, 2, ())
    assert driver.store.counts[0].tokens_missed == 4


def test_what_is_held_stays_and_is_not_counted() -> None:
    driver = host_only(slots=4)
    driver.publish("abc")
    held = driver.ask(ev.Match(1, 9, 0, spelled("abcd"), hold=True), ev.Matched)
    assert (held.blocks, held.by_tier, held.term_ns) == (3, (3,), READ_LEASE_NS)
    assert driver.store.counts[0].requests == 0
    assert driver.publish("xyz") == 1, "nothing of it is evicted"
    driver.release(held.lease)
    assert driver.publish("xyz") == 2
    nothing = driver.ask(ev.Match(1, 9, 0, spelled("q"), hold=True), ev.Matched)
    assert nothing == ev.Matched(0, (0,))


def test_what_is_missing_is_counted_where_no_fetch_will_ask_for_it() -> None:
    driver = host_only()
    driver.publish("abc")
    counts = driver.store.counts[0]
    driver.ask(ev.Match(1, 9, 0, spelled("abcd"), count_missing=True), ev.Matched)
    assert (counts.requests, counts.tokens_asked, counts.tokens_missed) == (0, 4, 4)
    driver.fetch("abc")
    assert (counts.requests, counts.tokens_asked, counts.tokens_missed) == (1, 16, 4)
    driver.ask(ev.Match(1, 9, 0, spelled("xy"), hold=True, count_missing=True), ev.Matched)
    assert (counts.requests, counts.tokens_asked, counts.tokens_missed) == (2, 24, 12)
    driver.ask(ev.Match(1, 9, 0, (), count_missing=True), ev.Matched)
    assert counts.requests == 2


def test_a_hold_counts_against_the_leases_of_a_session() -> None:
    driver = host_only(limits=Limits(leases_per_session_max=1))
    driver.publish("a")
    assert driver.ask(ev.Match(1, 9, 0, spelled("a"), hold=True), ev.Matched).lease
    driver.ask(ev.Match(1, 9, 0, spelled("a"), hold=True), Overloaded)


def test_a_new_namespace_finds_room_at_once() -> None:
    """The first one opened borrows its share ahead, which is nearly all, and leaves a little."""
    driver = Driver(store_config(tier("host", 64, region_slots=2)), LAYOUT)
    for name in ("second", "third"):
        namespace = driver.open(page_layout(name))
        reserved = driver.ask(ev.Reserve(1, 9, namespace, spelled("ab"), 0, 0), ev.Reserved)
        assert reserved.declined == 0, name


def test_fetch_and_reserve_is_one_step() -> None:
    driver = host_only()
    driver.publish("ab")
    fetched = driver.fetch("abcd", part=0)
    assert fetched.blocks == 2
    assert fetched.reserved is not None
    assert fetched.reserved.lease not in (0, fetched.lease)
    assert fetched.reserved.grants == (ev.Grant(index=2, slot=2, count=2),)
    assert driver.seal(fetched.reserved.lease, 2) == 2
    assert driver.fetch("abcd", part=0).reserved == ev.Reserved(0, (), 0)


def test_only_the_sealed_part_of_a_reservation_is_published() -> None:
    driver = host_only()
    reserved = driver.reserve("abcd")
    assert driver.seal(reserved.lease, 1) == 1
    assert driver.fetch("abcd").blocks == 1
    assert driver.store.room.spaces[0][0].used == 1


def test_a_reservation_is_sealed_by_its_own_session_only() -> None:
    driver = host_only()
    driver.feed(ev.OpenSession(2, None))
    reserved = driver.reserve("a", session=1)
    driver.ask(ev.Seal(2, 9, reserved.lease, 1), LeaseExpired)
    assert driver.seal(reserved.lease, 1, session=1) == 1


def test_a_block_of_two_shards_is_seen_when_both_are_sealed() -> None:
    driver = Driver(store_config(tier("host", 8)), page_layout("sharded", shards=2))
    first, second = driver.reserve("ab", part=0), driver.reserve("ab", part=1)
    assert first.grants == second.grants == (ev.Grant(0, 0, 2),)
    assert driver.seal(first.lease, 2) == 2
    assert driver.fetch("ab").blocks == 0
    assert driver.seal(second.lease, 2) == 2
    assert driver.fetch("ab").blocks == 2


def test_one_aborted_part_ends_the_block_for_all() -> None:
    driver = Driver(store_config(tier("host", 8)), page_layout("sharded", shards=2))
    first, second = driver.reserve("ab", part=0), driver.reserve("ab", part=1)
    driver.release(first.lease)
    assert driver.seal(second.lease, 2) == 0
    assert driver.store.room.spaces[0][0].used == 0


def test_a_part_that_never_comes_does_not_keep_the_block_forever() -> None:
    """One rank sealed and the other died before it reserved: the key must not stay taken."""
    driver = Driver(store_config(tier("host", 8)), page_layout("sharded", shards=2))
    assert driver.seal(driver.reserve("a", part=0).lease, 1) == 1
    assert driver.reserve("a", part=0).grants == ()
    assert driver.store.next_wakeup_ns() == WRITE_LEASE_NS
    driver.pass_time(WRITE_LEASE_NS)
    assert driver.store.room.spaces[0][0].used == 0
    assert driver.reserve("a", part=0).grants == (ev.Grant(0, 0, 1),)


# ---- single flight and waiting


def test_a_second_writer_of_a_key_gets_nothing() -> None:
    driver = host_only()
    assert driver.reserve("ab").grants
    assert driver.reserve("abc") == ev.Reserved(0, (), 0)


def test_a_fetch_that_waits_is_answered_at_the_seal() -> None:
    driver = host_only()
    reserved = driver.reserve("ab")
    driver.feed(driver.fetch_event("abc", wait_ns=10))
    assert driver.answers() == []
    driver.feed(ev.Seal(1, 0, reserved.lease, 2))
    [fetched] = driver.answers()
    assert isinstance(fetched, ev.Fetched)
    assert fetched.blocks == 2


@pytest.mark.parametrize("how", ["release", "given up", "expiry", "close"])
def test_a_fetch_that_waits_takes_over_when_the_writer_gives_up(how: str) -> None:
    driver = host_only()
    driver.feed(ev.OpenSession(2, None))
    reserved = driver.reserve("a", session=2)
    driver.feed(driver.fetch_event("a", wait_ns=100, part=0))
    assert driver.answers() == []
    match how:
        case "release":
            driver.release(reserved.lease, session=2)
        case "given up":
            driver.feed(ev.Seal(2, 0, reserved.lease, 0))
        case "expiry":
            driver.pass_time(WRITE_LEASE_NS)
        case _:
            driver.feed(ev.CloseSession(2))
    [fetched] = driver.answers()
    assert isinstance(fetched, ev.Fetched)
    assert fetched.reserved is not None
    assert fetched.reserved.grants == (ev.Grant(0, 0, 1),)


def test_a_fetch_waits_no_longer_than_it_said() -> None:
    driver = host_only()
    driver.reserve("a")
    driver.feed(driver.fetch_event("a", wait_ns=10))
    assert driver.store.next_wakeup_ns() == 10
    driver.pass_time(9)
    assert driver.answers() == []
    driver.pass_time(1)
    assert driver.answers() == [ev.Fetched(0, 0, 0, (), None)]


def test_a_reservation_waits_for_room_in_turn() -> None:
    driver = host_only(4)
    driver.publish("abcd")
    held = driver.fetch("abcd")
    for text in ("x", "y"):
        driver.feed(driver.reserve_event(text, wait_ns=15))
        assert driver.answers() == []
    driver.release(held.lease)
    first, second = driver.of(ev.Reply)
    assert (first.request, second.request) == (first.request, first.request + 1)
    assert all(isinstance(body, ev.Reserved) and body.grants for body in driver.answers())


def test_a_namespace_that_waits_for_room_does_not_hold_up_another() -> None:
    """Reservations once stood in one line, and the first of it could wait for a long lease."""
    driver = host_only(8)
    other = driver.open(page_layout("other"))
    driver.settle()
    driver.publish("abcd")
    driver.publish("efgh", of=other)
    driver.fetch("abcd")
    held = driver.fetch("efgh", of=other)
    for text, namespace in (("x", 0), ("y", other)):
        driver.feed(driver.reserve_event(text, wait_ns=15, of=namespace))
        assert driver.answers() == []
    driver.release(held.lease)
    [reserved] = driver.answers()
    assert isinstance(reserved, ev.Reserved)
    assert reserved.grants


def test_room_that_an_expiry_makes_is_given_at_once() -> None:
    driver = host_only(4)
    driver.publish("abcd")
    driver.fetch("abcd")
    driver.feed(driver.reserve_event("x", wait_ns=100))
    assert driver.answers() == []
    driver.pass_time(READ_LEASE_NS)
    [reserved] = driver.answers()
    assert isinstance(reserved, ev.Reserved)
    assert reserved.grants


def test_a_reservation_that_found_no_room_in_time_is_declined() -> None:
    driver = host_only(4)
    driver.reserve("abcd")
    driver.feed(driver.reserve_event("xy", wait_ns=10))
    driver.pass_time(10)
    assert driver.answers() == [ev.Reserved(0, (), 2)]


# ---- room


def test_a_full_tier_grants_fewer_slots() -> None:
    driver = host_only(4)
    reserved = driver.reserve("abcdef")
    assert reserved.grants == (ev.Grant(0, 0, 4),)
    assert reserved.declined == 2


def test_leaves_are_evicted_first_and_leased_chains_never() -> None:
    driver = host_only(4)
    driver.publish("abcd")
    driver.publish("x")
    assert driver.fetch("abcd").blocks == 3
    driver.publish("yz")
    assert (driver.tiers_of("x"), driver.tiers_of("abc")) == ((), ("host",))


def test_the_least_recent_chain_goes_first() -> None:
    driver = host_only(4)
    driver.publish("ab")
    driver.publish("xy")
    driver.release(driver.fetch("ab").lease)
    driver.publish("z")
    assert [driver.tiers_of(t) for t in ("ab", "x", "xy")] == [("host",), ("host",), ()]


def test_an_ended_session_goes_first_but_for_what_it_shares() -> None:
    driver = host_only(4)
    driver.publish("xy")
    driver.publish("ab")
    driver.feed(ev.EndSession(0, spelled("ab"), shared=1))
    driver.publish("z")
    assert [driver.tiers_of(t) for t in ("a", "ab", "xy")] == [("host",), (), ("host",)]


def test_pins_keep_blocks_within_the_quota_and_for_their_time() -> None:
    driver = host_only(4)
    driver.publish("abc")
    assert driver.ask(ev.Pin(1, 9, 0, spelled("abc"), 50), ev.Pinned).blocks == 2
    assert driver.ask(ev.Pin(1, 10, 0, spelled("a"), 50), ev.Pinned).blocks == 0
    assert driver.reserve("wxyz").declined == 2
    assert driver.tiers_of("ab") == ("host",)
    driver.pass_time(50)
    assert driver.reserve("12").declined == 0


def test_many_pinned_blocks_do_not_hide_those_that_can_go() -> None:
    """A search gave up after a thousand blocks that it could not take, and pins are that many."""
    driver = host_only(4096)
    limits = driver.store.config.limits
    assert limits.pinned_ratio_max == 0.5
    long = "".join(chr(code) for code in range(0x100, 0x100 + 2048))
    driver.publish(long)
    driver.publish("".join(chr(code) for code in range(0x1000, 0x1000 + 2048)))
    assert driver.ask(ev.Pin(1, 9, 0, spelled(long), 50), ev.Pinned).blocks == 2048
    assert driver.reserve("abc").declined == 0


# ---- the colder tier


def test_sealed_blocks_are_written_back_and_then_evicted_for_free() -> None:
    driver = with_disk(host=4)
    driver.publish("abcd")
    assert driver.reserve("x").declined == 1, "evicted before it was written"
    driver.settle()
    assert driver.tiers_of("abcd") == ("host", "disk")
    assert driver.publish("wxyz") == 4
    assert driver.tiers_of("abcd") == ("disk",)


def test_write_back_keeps_to_its_limits_root_first() -> None:
    driver = with_disk()
    driver.publish("abcdef")
    assert [move.key for move in driver.moves.values()] == spelled("abcd")
    driver.end_moves()
    assert [move.key for move in driver.moves.values()] == spelled("abcdef")[4:]


def test_batches_of_write_back_are_under_way_by_themselves() -> None:
    """Those that started together were one: nothing was written while it was synced."""
    driver = with_disk()
    driver.publish("abcdef")
    batches = [[move.key for move in start.moves] for start in driver.of(ev.StartMoves)]
    assert batches == [spelled("ab"), spelled("abcd")[2:]]


def test_a_turn_that_ends_is_written_first() -> None:
    driver = with_disk()
    driver.publish("abcd")
    driver.publish("mno")
    driver.publish("x")
    driver.feed(ev.EndTurn(1, 0, spelled("x")))
    driver.end_moves()
    assert next(iter(driver.moves.values())).key == b"x"


def test_a_block_is_written_once_even_if_it_is_used_meanwhile() -> None:
    """A fetch during its write-back queued a block again, so that each was written twice."""
    driver = with_disk()
    driver.publish("a")
    driver.fetch("a")
    driver.end_moves()
    assert driver.moves == {}


def test_second_touch_writes_what_is_used_again() -> None:
    policies = Policies(ChainLRU, SecondTouch, PromoteOnHit())
    driver = Driver(store_config(tier("host", 8), tier("disk", 8), policies=policies), LAYOUT)
    driver.publish("ab")
    assert driver.moves == {}
    driver.fetch("a")
    assert [move.key for move in driver.moves.values()] == [b"a"]


def test_a_fetch_from_disk_waits_for_its_move_and_another_joins_it() -> None:
    driver = on_disk_only("ab")
    first, second = driver.fetch("ab"), driver.fetch("ab")
    assert first.runs == second.runs == (ev.Run(tier=1, slot=0, count=2, pending=True),)
    assert (first.queued_bytes, second.queued_bytes) == (0, 2 * LAYOUT.block_bytes)
    assert len(driver.moves) == 2
    driver.end_moves()
    assert driver.of(ev.Landed) == [
        ev.Landed(1, first.lease, (0, 1), (0, 1)),
        ev.Landed(1, second.lease, (0, 1), (0, 1)),
    ]
    assert driver.tiers_of("ab") == ("host", "disk")


def test_a_corrupt_copy_is_told_dropped_and_counted_as_missed() -> None:
    driver = on_disk_only("ab")
    fetched = driver.fetch("ab")
    driver.end_moves("source")
    assert driver.of(ev.Landed) == [ev.Landed(1, fetched.lease, failed=(0, 1))]
    assert [drop.keys for drop in driver.of(ev.DropRecords)] == [(b"a",), (b"ab",)]
    assert driver.fetch("ab").blocks == 0
    counts = driver.store.counts[0]
    assert counts.corrupt_blocks == 2
    assert counts.tokens_asked == counts.tokens_missed == 4 * LAYOUT.block_tokens


def test_a_move_that_found_its_target_broken_leaves_the_copy() -> None:
    driver = on_disk_only("a")
    fetched = driver.fetch("a")
    driver.end_moves("target")
    assert driver.of(ev.Landed) == [ev.Landed(1, fetched.lease, failed=(0,))]
    assert driver.tiers_of("a") == ("disk",)


def test_a_client_asks_for_a_prefix_in_windows_and_reads_the_rest_itself() -> None:
    driver = on_disk_only("abcd")
    fetched = driver.fetch("abcd", stage_blocks=1)
    assert fetched.runs == (ev.Run(1, 0, 1, pending=True), ev.Run(1, 1, 3, pending=False))
    driver.feed(ev.Stage(1, fetched.lease, first=0, count=2))
    assert sorted(move.key for move in driver.moves.values()) == [b"a", b"ab"]
    driver.end_moves()
    assert driver.of(ev.Landed) == [ev.Landed(1, fetched.lease, (0, 1), (0, 1))]
    driver.feed(ev.Stage(1, fetched.lease, first=1, count=1))
    assert driver.of(ev.Landed) == [ev.Landed(1, fetched.lease, (1,), (1,))]
    assert driver.tiers_of("abcd") == ("disk",)


def test_staging_without_a_slot_is_declined_and_after_a_failure_fails() -> None:
    driver = on_disk_only("ab", host=4)
    driver.publish("wxyz")
    driver.fetch("wxyz")
    fetched = driver.fetch("ab", stage_blocks=0)
    driver.feed(ev.Stage(1, fetched.lease, first=0, count=9))
    assert driver.of(ev.Landed) == [ev.Landed(1, fetched.lease, declined=(0, 1))]
    driver.feed(ev.ReadFailed(1, fetched.lease, 1, unanswered=True))
    driver.feed(ev.Stage(1, fetched.lease, first=0, count=9))
    assert driver.of(ev.Landed) == [ev.Landed(1, fetched.lease, failed=(1,), declined=(0,))]
    assert driver.tiers_of("ab") == ("disk",)
    assert driver.store.counts[0].corrupt_blocks == 0


def test_without_room_in_the_entry_tier_the_client_reads_the_disk_itself() -> None:
    driver = on_disk_only("ab", host=4)
    driver.publish("wxyz")
    driver.fetch("wxyz")
    fetched = driver.fetch("ab")
    assert fetched.runs == (ev.Run(tier=1, slot=0, count=2, pending=False),)
    driver.feed(ev.ReadFailed(1, fetched.lease, 1))
    assert (driver.tiers_of("a"), driver.tiers_of("ab")) == (("disk",), ())


def test_a_read_that_fails_is_counted_once_and_a_write_lease_has_none() -> None:
    """A second report of one failure, or one of a write lease, was an index out of range."""
    driver = host_only()
    driver.publish("abc")
    fetched = driver.fetch("abcd", part=0)
    assert fetched.reserved is not None
    for lease in (fetched.reserved.lease, fetched.lease, fetched.lease):
        driver.feed(ev.ReadFailed(1, lease, 1))
    assert driver.store.counts[0].corrupt_blocks == 1
    assert driver.store.counts[0].tokens_hit[0] == LAYOUT.block_tokens


def test_a_copy_found_corrupt_by_nobodys_read_is_dropped_if_it_is_still_there() -> None:
    driver = on_disk_only("ab")
    block = spelled("ab")[1]
    driver.feed(ev.CopyCorrupt(block, 1, 9))
    driver.feed(ev.CopyCorrupt(spelled("x")[0], 1, 0))
    assert driver.store.counts[0].corrupt_blocks == 0
    driver.feed(ev.CopyCorrupt(block, 1, 1))
    assert driver.store.counts[0].corrupt_blocks == 1
    assert driver.ask(ev.Match(1, 9, 0, spelled("ab")), ev.Matched).blocks == 1


def test_a_corrupt_slot_is_not_reused_while_others_read_it_in_place() -> None:
    """Who reads mapped memory checks the fence and no checksum: the slot must wait for them."""
    driver = host_only(4)
    driver.publish("abcd")
    mine, other = driver.fetch("abcd"), driver.fetch("abcd")
    driver.feed(ev.ReadFailed(1, mine.lease, 3))
    assert driver.tiers_of("abcd") == ()
    assert driver.reserve("abcd").declined == 1
    driver.release(mine.lease)
    assert driver.reserve("abcd").declined == 1
    driver.release(other.lease)
    assert driver.reserve("abcd").grants == (ev.Grant(3, 3, 1),)


def test_prefetch_brings_a_chain_to_the_entry_tier() -> None:
    driver = on_disk_only("ab")
    driver.feed(ev.Prefetch(0, spelled("abc")))
    assert [start.urgency for start in driver.of(ev.StartMoves)] == ["prefetch"]
    driver.end_moves()
    assert driver.fetch("ab").runs == (ev.Run(0, 0, 2, pending=False),)


def test_a_faulted_tier_is_not_used_and_does_not_block_the_others() -> None:
    """Blocks that waited to be written to it stayed queued, and so could never be evicted."""
    driver = with_disk(host=4)
    driver.publish("abcd")
    driver.feed(ev.TierFaulted(1, "EIO"))
    driver.end_moves("target")
    assert driver.publish("wxyz") == 4
    assert driver.moves == {}


def test_a_block_published_anew_while_its_move_lands() -> None:
    """The disk went offline with a read under way, which then succeeded all the same."""
    driver = on_disk_only("a")
    driver.fetch("a")
    driver.feed(ev.TierFaulted(1, "EIO"))
    reserved = driver.reserve("a")
    assert reserved.grants
    driver.end_moves()
    assert driver.seal(reserved.lease, 1) == 1
    assert driver.tiers_of("a") == ("host", "disk")
    assert driver.store.room.spaces[0][0].used == 1


# ---- the hotter tier


def three_tiers() -> Driver:
    tiers = (tier("device", 4, region_slots=2), tier("host", 4), tier("disk", 8))
    return Driver(store_config(*tiers), LAYOUT)


def test_what_is_fetched_often_is_promoted() -> None:
    driver = three_tiers()
    driver.publish("ab")
    driver.settle()
    driver.fetch("ab")
    assert driver.moves == {}
    driver.fetch("ab")
    [start] = driver.of(ev.StartMoves)
    assert start.urgency == "promotion"
    assert [(move.source, move.target) for move in start.moves] == [(1, 0), (1, 0)]
    driver.settle()
    assert driver.tiers_of("ab") == ("device", "host", "disk")
    assert driver.fetch("ab").runs == (ev.Run(0, 0, 2, pending=False),)


def test_a_block_that_is_left_in_the_hottest_tier_only_is_still_served() -> None:
    """Its fetch queued it to be written from the entry tier, where it no longer was."""
    policies = Policies(ChainLRU, SecondTouch, PromoteOnHit())
    tiers = (tier("device", 4), tier("host", 4), tier("disk", 8))
    driver = Driver(store_config(*tiers, policies=policies), LAYOUT)
    driver.publish("a")
    driver.feed(ev.TierFaulted(2, "EIO"))
    driver.release(driver.fetch("a").lease)
    driver.settle()
    driver.publish("wxyz")
    assert driver.tiers_of("a") == ("device",)
    driver.release(driver.fetch("a").lease)
    assert driver.fetch("a").runs == (ev.Run(0, 0, 1, pending=False),)


# ---- leases and sessions


def test_an_expired_read_lease_clears_its_fence() -> None:
    driver = host_only()
    driver.publish("a")
    fetched = driver.fetch("a")
    assert driver.store.next_wakeup_ns() == READ_LEASE_NS
    driver.pass_time(READ_LEASE_NS)
    assert driver.of(ev.SetFence) == [ev.SetFence(1, fetched.fence, 0)]
    driver.ask(ev.Renew(1, 9, fetched.lease), LeaseExpired)


def test_a_lease_is_renewed_any_number_of_times_at_once() -> None:
    """Two renewals in one instant left two entries for one expiry, which then ended it twice."""
    driver = host_only()
    driver.publish("a")
    fetched = driver.fetch("a")
    driver.now_ns = 10
    for request in (9, 10):
        renewed = driver.ask(ev.Renew(1, request, fetched.lease), ev.Renewed)
        assert renewed == ev.Renewed(10 + READ_LEASE_NS)
    driver.pass_time(READ_LEASE_NS)
    assert driver.store.leases.leases == {}


def stalled_writer() -> tuple[Driver, ev.Reserved]:
    """Return a store of one slot whose writer, a local process, let its lease run out."""
    driver = Driver(store_config(tier("host", 1, region_slots=1)), LAYOUT)
    driver.feed(ev.OpenSession(2, 77))
    reserved = driver.reserve("a", session=2)
    driver.pass_time(WRITE_LEASE_NS)
    assert driver.reserve("b").declined == 1, "it may still be writing"
    return driver, reserved


def test_a_stalled_writer_keeps_its_slot_until_it_says_so() -> None:
    driver, reserved = stalled_writer()
    driver.ask(ev.Seal(2, 9, reserved.lease, 1), LeaseExpired)
    assert driver.reserve("b").grants == (ev.Grant(0, 0, 1),)


def test_a_stalled_writer_keeps_its_slot_until_it_is_dead() -> None:
    driver, _ = stalled_writer()
    driver.feed(ev.CloseSession(2))
    assert driver.reserve("b").declined == 1
    driver.feed(ev.OwnerGone(77))
    assert driver.reserve("b").grants == (ev.Grant(0, 0, 1),)


def test_a_writer_may_be_seen_dead_before_its_stream_ends() -> None:
    """Then nobody told of its death again, and its slots stayed taken."""
    driver, _ = stalled_writer()
    driver.feed(ev.OwnerGone(77))
    driver.feed(ev.CloseSession(2))
    assert driver.reserve("b").grants == (ev.Grant(0, 0, 1),)


def test_a_closed_session_of_a_remote_client_frees_all_at_once() -> None:
    driver = host_only(4)
    driver.feed(ev.OpenSession(2, None))
    driver.publish("ab")
    driver.fetch("ab", session=2)
    driver.reserve("xy", session=2)
    driver.feed(ev.CloseSession(2))
    assert driver.reserve("1234").declined == 0


def test_a_closed_session_of_a_process_has_its_fences_cleared() -> None:
    """The process may live on and read: nothing else would tell it that the bytes may change."""
    driver = host_only()
    driver.publish("a")
    driver.feed(ev.OpenSession(2, 77))
    fetched = driver.fetch("a", session=2)
    driver.feed(ev.CloseSession(2))
    assert driver.of(ev.SetFence) == [ev.SetFence(2, fetched.fence, 0)]


# ---- namespaces


def test_a_name_stands_for_one_layout() -> None:
    driver = host_only()
    assert driver.open(page_layout("other"), "mine") == 1
    event = ev.OpenNamespace(1, 9, "mine", page_layout("other", block_tokens=8))
    conflict = driver.ask(event, NamespaceConflict)
    assert conflict.differences == ("block_tokens: 4, not 8",)


def test_two_names_for_one_layout_are_one_namespace() -> None:
    """Equal layouts have equal keys, so that one name was served from the other's slots."""
    driver = host_only()
    assert driver.open(LAYOUT, "another name") == 0


def test_a_region_moves_from_a_rich_namespace_to_a_poor_one() -> None:
    driver = host_only(8)
    driver.publish("abcdefgh")
    poor = driver.open(page_layout("poor"))
    [reclaim] = driver.of(ev.ReclaimRegion)
    assert (reclaim.namespace, reclaim.region) == (0, 1)
    driver.feed(driver.reserve_event("xyz", wait_ns=10, of=poor))
    assert driver.answers() == []
    assert driver.of(ev.ReclaimRegion) == []
    driver.feed(ev.RegionReclaimed(0, 0, 1))
    assert driver.of(ev.PrepareRegion) == [ev.PrepareRegion(poor, 0, 0)]
    [reserved] = driver.answers()
    assert isinstance(reserved, ev.Reserved)
    assert reserved.grants == (ev.Grant(0, 0, 3),)
    assert driver.fetch("abcdefgh").blocks == 4


def test_a_region_that_was_busy_is_given_back_later() -> None:
    """Its leased blocks stayed when it was to be emptied, and nothing came back for them."""
    driver = host_only(8)
    driver.publish("abcdefgh")
    held = driver.fetch("abcdefg")
    poor = driver.open(page_layout("poor"))
    assert driver.reserve("x", of=poor).declined == 1
    assert driver.tiers_of("abcdefgh") == ()
    assert driver.of(ev.ReclaimRegion) == []
    driver.release(held.lease)
    assert driver.reserve("x", of=poor).declined == 1
    assert driver.of(ev.ReclaimRegion) == [ev.ReclaimRegion(0, 0, 1)]


# ---- durability


def test_persist_is_answered_when_every_block_is_on_disk() -> None:
    driver = with_disk()
    driver.publish("abc")
    driver.feed(ev.Persist(1, 50, 0, spelled("abcd"), 1000))
    assert driver.answers() == []
    driver.end_moves()
    assert driver.answers() == [ev.Persisted(3)]


def test_persist_waits_for_no_more_clients_than_the_limit() -> None:
    """Every chain that somebody waited for was looked at after every move, however many: there was
    no end to the requests that one client could have waiting."""
    limits = Limits(waiting_max=2, write_batch_bytes=8192, write_batches_max=2)
    driver = Driver(store_config(tier("host", 8), tier("disk", 8), limits=limits), LAYOUT)
    driver.publish("abc")
    for request in (50, 51, 52):
        driver.feed(ev.Persist(1, request, 0, spelled("abc"), 10**12))
    assert driver.answers() == [ev.Persisted(0)]
    driver.end_moves()
    assert driver.answers() == [ev.Persisted(3), ev.Persisted(3)]


def test_persist_writes_what_the_policy_would_not() -> None:
    picky = Policies(ChainLRU, SecondTouch, PromoteOnHit())
    driver = Driver(store_config(tier("host", 8), tier("disk", 8), policies=picky), LAYOUT)
    driver.publish("ab")
    assert driver.moves == {}
    driver.feed(ev.Persist(1, 50, 0, spelled("ab"), 1000))
    driver.end_moves()
    assert driver.answers() == [ev.Persisted(2)]


def test_persist_does_not_wait_for_what_cannot_come() -> None:
    driver = host_only()
    driver.publish("ab")
    assert driver.ask(ev.Persist(1, 50, 0, spelled("ab"), 1000), ev.Persisted).blocks == 0


def test_persist_is_answered_when_a_write_fails_for_the_last_time() -> None:
    driver = with_disk()
    driver.publish("ab")
    driver.feed(ev.Persist(1, 50, 0, spelled("ab"), 10**12))
    for _ in range(driver.store.config.limits.writes_tried_max - 1):
        driver.end_moves(fault="target")
        assert driver.answers() == []
        driver.pass_time(10**10)
    driver.end_moves(fault="target")
    assert driver.answers() == [ev.Persisted(0)]


def test_persist_does_not_count_what_was_evicted_while_it_waited() -> None:
    """What was durable when it was first looked at was believed to be so until the answer."""
    a, ab = spelled("ab")
    durable = {a}
    persisting = Persisting(lambda key: key in durable, lambda key: key == ab)
    event = ev.Persist(1, 50, 0, [a, ab], 1000)
    persisting.add(event, [a, ab])
    assert persisting.pop_over(0) == []
    durable = {ab}
    assert persisting.pop_over(0) == [(event, 0)]


def test_persist_waits_no_longer_than_it_was_told() -> None:
    driver = with_disk()
    driver.publish("ab")
    driver.feed(ev.Persist(1, 51, 0, spelled("ab"), 5))
    driver.now_ns = 5
    driver.feed(ev.Tick())
    assert driver.answers() == [ev.Persisted(0)]


# ---- recovery


def stored(slot: int, text: str) -> ev.StoredCopy:
    chain = [LAYOUT.root, *spelled(text)]
    return ev.StoredCopy(chain[-1], chain[-2], slot)


def recovered(*copies: ev.StoredCopy) -> Driver:
    driver = Driver(store_config(tier("host", 4), tier("disk", 8)))
    driver.feed(ev.Recovered(1, "kept", LAYOUT, 4, copies))
    return driver


def test_recovery_restores_what_the_index_remembers() -> None:
    driver = recovered(stored(0, "a"), stored(1, "ab"), stored(5, "x"))
    assert driver.of(ev.DropRecords) == []
    driver.feed(ev.OpenSession(1, None))
    assert driver.open(LAYOUT, "kept") == 0
    assert driver.ask(ev.Match(1, 9, 0, spelled("abc")), ev.Matched) == ev.Matched(2, (0, 2))
    assert driver.store.room.spaces[0][1].used == 3


def test_recovered_leaves_are_evicted_first() -> None:
    driver = recovered(stored(0, "a"), stored(2, "x"), stored(1, "ab"), stored(4, "abc"))
    order = [key.decode() for key in driver.store.room.policies[0][1].victims()]
    assert order == ["x", "abc", "ab", "a"]


def test_recovered_parents_stay_behind_children_that_were_written_first() -> None:
    driver = recovered(stored(0, "abc"), stored(1, "a"), stored(2, "x"), stored(3, "ab"))
    order = [key.decode() for key in driver.store.room.policies[0][1].victims()]
    assert order == ["abc", "x", "ab", "a"]


def test_of_two_records_of_one_slot_the_newer_one_is_believed() -> None:
    driver = recovered(stored(0, "a"), stored(0, "x"))
    assert (driver.tiers_of("a"), driver.tiers_of("x")) == ((), ("disk",))
    assert driver.of(ev.DropRecords) == [ev.DropRecords(0, 1, (BlockKey(b"a"),))]


def test_records_beyond_a_tier_that_has_become_smaller_are_dropped() -> None:
    driver = recovered(stored(0, "a"), stored(4, "b"), stored(8, "x"))
    assert driver.of(ev.DropRecords) == [ev.DropRecords(0, 1, (BlockKey(b"x"),))]
    assert (driver.tiers_of("a"), driver.tiers_of("b")) == (("disk",), ("disk",))


# ---- limits and counts


def test_a_table_that_is_full_says_so() -> None:
    limits = Limits(leases_per_session_max=2, namespaces_max=1, waiting_max=1)
    driver = host_only(limits=limits)
    driver.publish("a")
    driver.ask(ev.OpenNamespace(1, 9, "", page_layout("other")), Overloaded)
    leased = driver.fetch("a")
    driver.ask(driver.fetch_event("a"), Overloaded)
    reserved = driver.reserve("xy")
    driver.ask(driver.reserve_event("z"), Overloaded)
    driver.release(leased.lease)
    driver.seal(reserved.lease, 0)


def test_one_fetch_too_many_does_not_wait() -> None:
    driver = host_only(limits=Limits(waiting_max=1))
    driver.reserve("a")
    driver.feed(driver.fetch_event("a", wait_ns=10))
    assert driver.answers() == []
    assert driver.ask(driver.fetch_event("a", wait_ns=10), ev.Fetched).blocks == 0


def test_one_publish_gets_so_many_slots() -> None:
    driver = host_only(limits=Limits(slots_per_publish_max=3))
    assert driver.reserve("abcde").grants == (ev.Grant(0, 0, 3),)


def test_tokens_asked_are_tokens_served_and_missed() -> None:
    driver = on_disk_only("a")
    driver.fetch("ab")
    driver.end_moves()
    driver.publish("ab")
    driver.fetch("abc")
    counts = driver.store.counts[0]
    tokens = LAYOUT.block_tokens
    assert (counts.requests, counts.tokens_asked, counts.tokens_missed) == (
        2,
        5 * tokens,
        2 * tokens,
    )
    assert counts.tokens_hit == {1: tokens, 0: 2 * tokens}
    assert (counts.blocks_sealed, counts.blocks_declined) == (1, 0)


# ---- tiers that come back


def test_what_was_published_while_a_tier_was_offline_is_written_when_it_is_back() -> None:
    driver = with_disk()
    driver.feed(ev.TierFaulted(1, "EIO"))
    driver.publish("abc")
    assert driver.moves == {}
    driver.feed(ev.TierRecovered(1))
    assert [move.key for move in driver.moves.values()] == spelled("abc")
    driver.settle()
    assert driver.tiers_of("abc") == ("host", "disk")


def test_what_a_tier_held_when_it_faulted_is_served_when_it_is_back() -> None:
    driver = on_disk_only("ab")
    driver.feed(ev.TierFaulted(1, "EIO"))
    assert driver.fetch("ab").blocks == 0
    driver.feed(ev.TierRecovered(1))
    assert driver.fetch("ab").blocks == 2


def test_the_hottest_tier_is_promoted_to_when_it_is_back() -> None:
    driver = three_tiers()
    driver.publish("a")
    driver.settle()
    driver.feed(ev.TierFaulted(0, "EIO"))
    driver.fetch("a")
    driver.fetch("a")
    assert driver.moves == {}
    driver.feed(ev.TierRecovered(0))
    driver.fetch("a")
    driver.settle()
    assert driver.tiers_of("a") == ("device", "host", "disk")


def test_who_waits_for_a_block_that_is_published_anew_does_not_read_the_moves_slot() -> None:
    """The slot was given back when the move landed, but the waiting reader went on to use it."""
    driver = on_disk_only("a")
    waiting = driver.fetch("a")
    driver.feed(ev.TierFaulted(1, "EIO"))
    driver.publish("a")
    driver.end_moves()
    assert driver.of(ev.Landed) == [ev.Landed(1, waiting.lease, failed=(0,))]


def test_a_seal_does_not_touch_a_parent_that_was_published_anew_and_pinned() -> None:
    """Policies heard of the new one, which they are not to know, for the old one of the lease."""
    driver = with_disk()
    driver.publish("a")
    driver.settle()
    reserved = driver.reserve("ab")
    for tier_, slot in enumerate(driver.store.catalog.blocks[BlockKey(b"a")].slots):
        assert slot is not None
        driver.feed(ev.CopyCorrupt(BlockKey(b"a"), tier_, slot))
    assert driver.tiers_of("a") == ()
    driver.publish("a")
    assert driver.ask(ev.Pin(1, 9, 0, spelled("a"), 100), ev.Pinned) == ev.Pinned(1)
    driver.seal(reserved.lease, 1)
    driver.settle()
    assert driver.tiers_of("a") == driver.tiers_of("ab") == ("host", "disk")
