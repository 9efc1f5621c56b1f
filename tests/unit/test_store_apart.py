"""Blocks that no chain leads to: each key is a chain of its own, and one message has many."""

import random
from collections.abc import Sequence

import pytest

from tests.policies.replaying import Make
from tests.stores import SIMPLE, WRITE_LEASE_NS, Driver, page_layout, spelled, store_config, tier
from tierd.control import events as ev
from tierd.control.catalog import Block
from tierd.control.policies import Policies
from tierd.core.keys import BlockKey
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.fifo import Fifo
from tierd_policies.prefetch import NextTurn, QueueLookAhead
from tierd_policies.promotion import NeverPromote, PromoteOnHit
from tierd_policies.registry import EVICTION

LAYOUT = page_layout("model")


def each(letters: str) -> list[BlockKey]:
    """Return the key of a chain of one block for each letter."""
    return [BlockKey(letter.encode()) for letter in letters]


class Apart(Driver):
    """Asks for blocks apart."""

    def match_apart(self, letters: str, *, hold: bool = False) -> ev.Matched:
        event = ev.Match(1, self.request(), 0, each(letters), hold, apart=True)
        return self.ask(event, ev.Matched)

    def fetch_apart_event(self, letters: str, wait_ns: int = 0) -> ev.Fetch:
        until_ns = self.now_ns + wait_ns
        return ev.Fetch(1, self.request(), 0, each(letters), until_ns, None, apart=True)

    def fetch_apart(self, letters: str) -> ev.Fetched:
        return self.ask(self.fetch_apart_event(letters), ev.Fetched)

    def reserve_apart(self, letters: str, part: int = 0) -> ev.Reserved:
        event = ev.Reserve(1, self.request(), 0, each(letters), part, 0, apart=True)
        return self.ask(event, ev.Reserved)

    def publish_apart(self, letters: str) -> int:
        reserved = self.reserve_apart(letters)
        granted = sum(grant.count for grant in reserved.grants)
        return self.seal(reserved.lease, granted) if granted else 0

    def block(self, letter: str) -> Block:
        return self.store.catalog.blocks[BlockKey(letter.encode())]


def host_only(slots: int = 8, policies: Policies = SIMPLE) -> Apart:
    return Apart(store_config(tier("host", slots), policies=policies), LAYOUT)


def on_disk_only(letters: str, policies: Policies = SIMPLE) -> Apart:
    driver = Apart(store_config(tier("host", 4), tier("disk", 16), policies=policies))
    copies = [ev.StoredCopy(key, LAYOUT.root, slot) for slot, key in enumerate(each(letters))]
    driver.feed(ev.Recovered(1, "", LAYOUT, 4, copies))
    driver.feed(ev.OpenSession(1, None))
    assert driver.open(LAYOUT) == 0
    return driver


def test_each_is_found_by_itself_and_in_any_order() -> None:
    driver = host_only()
    assert driver.publish_apart("xyz") == 3
    fetched = driver.fetch_apart("zxy")
    assert fetched.blocks == 3
    assert [(run.slot, run.count) for run in fetched.runs] == [(2, 1), (0, 2)]
    assert [driver.block(letter).parent for letter in "xyz"] == [LAYOUT.root] * 3


def test_a_match_tells_of_those_behind_the_first_that_is_missing() -> None:
    driver = host_only()
    driver.publish_apart("xyz")
    assert driver.match_apart("xy!z?") == ev.Matched(2, (2,), further=(3,))
    assert driver.match_apart("!?") == ev.Matched(0, (0,))
    assert driver.match_apart("xyx") == ev.Matched(2, (2,), further=(2,))
    assert driver.match_apart("xyz") == ev.Matched(3, (3,))


def test_what_a_hold_leases_stays_and_the_rest_may_go() -> None:
    driver = host_only(slots=4)
    driver.publish_apart("xyz")
    held = driver.match_apart("x!z", hold=True)
    assert (held.blocks, held.further) == (1, (2,))
    assert driver.publish_apart("abc") == 3
    assert driver.match_apart("xyz").blocks == 1


def test_keys_apart_are_no_chain_and_a_chain_is_not_apart() -> None:
    driver = host_only()
    driver.publish_apart("xy")
    driver.publish("abc")
    assert driver.ask(ev.Match(1, 9, 0, each("xy")), ev.Matched).blocks == 1
    event = ev.Match(1, 10, 0, spelled("abc"), apart=True)
    assert driver.ask(event, ev.Matched) == ev.Matched(1, (1,)), "the first hangs on the root"


def test_a_key_that_comes_twice_ends_what_is_fetched() -> None:
    """Two moves of one block, or two leases of it in one, would have been too many."""
    driver = on_disk_only("xy")
    fetched = driver.fetch_apart("xxy")
    assert fetched.blocks == 1
    assert len(driver.moves) == 1
    driver.settle()
    driver.release(fetched.lease)


def test_what_is_held_or_written_or_twice_there_does_not_keep_the_rest_from_being_written() -> None:
    driver = host_only()
    driver.publish_apart("a")
    writing = driver.reserve_apart("b")
    reserved = driver.reserve_apart("abccde")
    assert [(grant.index, grant.count) for grant in reserved.grants] == [(2, 1), (4, 2)]
    assert reserved.declined == 0
    assert driver.seal(reserved.lease, 3) == 3
    assert driver.match_apart("acdeb").blocks == 4
    assert driver.seal(writing.lease, 1) == 1
    assert driver.match_apart("acdeb").blocks == 5


def test_what_another_namespace_holds_is_not_written_over() -> None:
    driver = host_only()
    driver.publish_apart("a")
    other = driver.open(page_layout("other"))
    event = ev.Reserve(1, 9, other, each("ab"), 0, 0, apart=True)
    assert [(g.index, g.count) for g in driver.ask(event, ev.Reserved).grants] == [(1, 1)]


def test_writing_blocks_apart_leases_no_others() -> None:
    driver = host_only(slots=4)
    driver.publish_apart("ab")
    reserved = driver.reserve_apart("abcd")
    assert driver.store.leases.leases[reserved.lease].blocks == []
    assert driver.publish_apart("ef") == 2, "what is held gives way"
    assert driver.seal(reserved.lease, 2) == 2
    assert driver.match_apart("cdef").blocks == 4


def test_without_room_the_last_are_declined() -> None:
    driver = host_only(slots=4)
    reserved = driver.reserve_apart("abcdef")
    assert [(grant.index, grant.count) for grant in reserved.grants] == [(0, 4)]
    assert reserved.declined == 2


def test_fetch_and_reserve_is_one_step() -> None:
    driver = host_only()
    driver.publish_apart("b")
    event = ev.Fetch(1, 9, 0, each("abc"), 0, 0, apart=True)
    fetched = driver.ask(event, ev.Fetched)
    assert fetched.blocks == 0
    assert fetched.reserved is not None
    assert [(grant.index, grant.count) for grant in fetched.reserved.grants] == [(0, 1), (2, 1)]


def test_a_fetch_waits_for_the_next_block_that_another_is_writing() -> None:
    driver = host_only()
    driver.publish_apart("a")
    reserved = driver.reserve_apart("b")
    driver.feed(driver.fetch_apart_event("abc", wait_ns=10))
    assert driver.answers() == []
    driver.feed(ev.Seal(1, 0, reserved.lease, 1))
    [fetched] = driver.answers()
    assert isinstance(fetched, ev.Fetched)
    assert fetched.blocks == 2


def test_a_block_of_two_shards_is_found_when_both_are_sealed() -> None:
    driver = Apart(store_config(tier("host", 8)), page_layout("model", shards=2))
    for part in (0, 1):
        assert driver.match_apart("ab").blocks == 0
        assert driver.seal(driver.reserve_apart("ab", part).lease, 2) == 2
    assert driver.match_apart("ba").blocks == 2


def test_tokens_are_counted_up_to_the_first_block_that_is_missing() -> None:
    """Who goes on behind it counts each block once."""
    driver = host_only()
    driver.publish_apart("abcd")
    driver.fetch_apart("ab!cd")
    driver.fetch_apart("cd")
    counts = driver.store.counts[0]
    tokens = LAYOUT.block_tokens
    assert (counts.tokens_asked, counts.tokens_missed) == (5 * tokens, tokens)


@pytest.mark.parametrize("make", list(EVICTION.values()), ids=list(EVICTION))
def test_a_policy_is_told_of_each_by_itself_the_last_one_first(make: Make) -> None:
    told: list[list[BlockKey]] = []
    policy = make()

    def listen(verb: str) -> None:
        tell = getattr(policy, verb, policy.touch)

        def note(chain: Sequence[BlockKey]) -> None:
            told.append(list(chain))
            tell(chain)

        setattr(policy, verb, note)

    listen("extend")
    listen("touch")
    driver = host_only(policies=Policies(lambda: policy, AlwaysAdmit, NeverPromote()))
    driver.publish_apart("abc")
    assert told == [[key] for key in each("cba")]
    told.clear()
    driver.fetch_apart("acb")
    assert told == [[key] for key in each("bca")]


def test_of_one_call_the_last_go_first() -> None:
    driver = host_only(slots=4)
    driver.publish_apart("abcd")
    driver.publish_apart("x")
    assert driver.match_apart("abcd") == ev.Matched(3, (3,))


def test_chains_keep_their_order_beside_blocks_apart_when_a_tier_is_back() -> None:
    """Where the warmest two hung on the root, all was told as blocks apart."""
    policies = Policies(Fifo, AlwaysAdmit, NeverPromote())
    tiers = (tier("host", 8), tier("disk", 16))
    driver = Apart(store_config(*tiers, policies=policies), LAYOUT)
    driver.publish("cde")
    driver.publish_apart("xy")
    driver.feed(ev.TierFaulted(1, "EIO"))
    driver.feed(ev.TierRecovered(1))
    order = list(driver.store.room.policies[0][0].victims())
    ranks = [order.index(key) for key in spelled("cde")]
    assert ranks == sorted(ranks, reverse=True), "children before parents"


def test_persist_is_answered_when_each_is_on_disk() -> None:
    driver = Apart(store_config(tier("host", 8), tier("disk", 16)), LAYOUT)
    driver.publish_apart("abc")
    driver.feed(ev.Persist(1, 50, 0, each("cab!"), 1000, apart=True))
    assert driver.answers() == []
    driver.end_moves()
    assert driver.answers() == [ev.Persisted(3)]


def test_a_restart_finds_them_and_the_disk_brings_them() -> None:
    driver = on_disk_only("abc")
    assert driver.match_apart("bca") == ev.Matched(3, (0, 3))
    fetched = driver.fetch_apart("bca")
    assert [move.key for move in driver.moves.values()] == each("bca")
    driver.settle()
    driver.release(fetched.lease)
    assert driver.match_apart("abc") == ev.Matched(3, (3, 0))


def test_while_a_tier_is_away_what_it_has_ends_the_fetch() -> None:
    driver = on_disk_only("ab")
    driver.publish_apart("x")
    driver.settle()
    driver.feed(ev.TierFaulted(1, "EIO"))
    assert driver.match_apart("xab") == ev.Matched(1, (1, 0))
    assert driver.match_apart("axb") == ev.Matched(0, (0, 0), further=(1,))


def test_a_conversation_of_one_block_is_back_when_that_is_fetched_among_others() -> None:
    policies = Policies(ChainLRU, AlwaysAdmit, NeverPromote(), NextTurn)
    driver = host_only(policies=policies)
    driver.publish_apart("ab")
    driver.feed(ev.EndTurn(1, 0, each("a"), state="tool_call"))
    assert driver.store.next_wakeup_ns() is not None
    driver.release(driver.fetch_apart("ab").lease)
    driver.pass_time(WRITE_LEASE_NS)
    assert driver.store.next_wakeup_ns() is None


def test_a_queue_moves_on_when_its_first_is_fetched_among_others() -> None:
    policies = Policies(ChainLRU, AlwaysAdmit, NeverPromote(), lambda: QueueLookAhead(depth=1))
    driver = on_disk_only("abx", policies=policies)
    for letter in "ab":
        driver.feed(ev.Prefetch(0, each(letter)))
    assert [move.key for move in driver.moves.values()] == each("a")
    driver.settle()
    driver.fetch_apart("ax")
    assert BlockKey(b"b") in [move.key for move in driver.moves.values()]


@pytest.mark.parametrize("make", list(EVICTION.values()), ids=list(EVICTION))
def test_chains_and_blocks_apart_of_one_namespace_do_not_harm_each_other(make: Make) -> None:
    source = random.Random(5)
    policies = Policies(make, AlwaysAdmit, PromoteOnHit(hits_min=2))
    tiers = (tier("device", 4), tier("host", 8), tier("disk", 16))
    driver = Apart(store_config(*tiers, policies=policies), LAYOUT)
    for _ in range(150):
        text = "".join(source.choices("abc", k=source.randint(1, 6)))
        if source.random() < 0.5:  # Of these, "a", "b" and "c" are the first blocks of chains, too.
            fetched = driver.fetch_apart(text)
            driver.publish_apart(text + "".join(source.choices("uvwxyz", k=3)))
        else:
            fetched = driver.fetch(text)
            driver.publish(text)
        if fetched.lease:
            driver.release(fetched.lease)
        driver.settle()
        if source.random() < 0.1:
            driver.feed(ev.EndSession(0, spelled(text), shared=1))
        if source.random() < 0.1:
            driver.feed(ev.TierFaulted(2, "EIO"))
            driver.feed(ev.TierRecovered(2))
    assert driver.store.room.evicted[2] > 20
