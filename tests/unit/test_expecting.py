"""Pauses of which a client says how long they are: their chains are in memory when they end."""

from collections.abc import Sequence

import pytest

from tests.stores import Driver, page_layout, spelled, store_config, tier
from tierd.control import events as ev
from tierd.control.config import Limits
from tierd.control.policies import Policies
from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey
from tierd.core.notes import EXPECTED_S_MAX, AgentState, BlockClass
from tierd.core.units import NS_PER_S
from tierd.service.wire import EventReader
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.prefetch import NextTurn
from tierd_policies.promotion import NeverPromote
from tierd_policies.session_aware import SessionAware
from tierd_proto.v1 import tierd_pb2 as pb

LAYOUT = page_layout("model")
CHAINS = ("abc", "abx", "mno")
LEAD_NS = NS_PER_S


def on_disk_only(policies: Policies | None = None, limits: Limits | None = None) -> Driver:
    """Return a store that found the chains on its disk when it started."""
    policies = policies or Policies(ChainLRU, AlwaysAdmit, NeverPromote())
    tiers = (tier("host", 12), tier("disk", 16))
    driver = Driver(store_config(*tiers, policies=policies, limits=limits))
    copies = {key: key[:-1] or LAYOUT.root for text in CHAINS for key in spelled(text)}
    stored = [ev.StoredCopy(k, BlockKey(p), slot) for slot, (k, p) in enumerate(copies.items())]
    driver.feed(ev.Recovered(1, "", LAYOUT, 4, stored))
    for session in (1, 2):
        driver.feed(ev.OpenSession(session, None))
    assert driver.open(LAYOUT) == 0
    return driver


def pause(
    driver: Driver,
    text: str,
    seconds: float,
    session: int = 1,
    state: AgentState = "tool_call",
    classes: Sequence[BlockClass] = (),
) -> None:
    expected_ns = int(seconds * NS_PER_S)
    driver.feed(ev.EndTurn(session, 0, spelled(text), classes, state, expected_ns))


def brought(driver: Driver) -> list[BlockKey]:
    return [move.key for start in driver.of(ev.StartMoves) for move in start.moves]


def seconds(count: float) -> int:
    return int(count * NS_PER_S)


# ---- when


def test_a_chain_is_brought_shortly_before_its_tool_is_over() -> None:
    driver = on_disk_only()
    driver.pass_time(1000)
    pause(driver, "abc", 5)
    assert driver.store.next_wakeup_ns() == 1000 + 5 * NS_PER_S - LEAD_NS
    driver.pass_time(4 * NS_PER_S - 1)
    assert not driver.moves
    driver.pass_time(1)
    assert [start.urgency for start in driver.of(ev.StartMoves)] == ["prefetch"]
    assert brought(driver) == spelled("abc")
    driver.settle()
    assert driver.tiers_of("abc") == ("host", "disk")
    assert driver.tiers_of("mno") == ("disk",)
    assert driver.store.next_wakeup_ns() is None


@pytest.mark.parametrize("expected_ns", [1, LEAD_NS])
def test_what_is_soon_over_is_brought_with_the_next_tick(expected_ns: int) -> None:
    driver = on_disk_only()
    driver.feed(ev.EndTurn(1, 0, spelled("abc"), expected_ns=expected_ns))
    assert driver.store.next_wakeup_ns() == driver.now_ns
    driver.pass_time(0)
    assert brought(driver) == spelled("abc")


def test_of_a_pause_that_nobody_knows_the_length_of_nothing_is_brought() -> None:
    driver = on_disk_only()
    pause(driver, "abc", 0)
    assert driver.store.next_wakeup_ns() is None


def test_who_pauses_again_is_expected_by_the_last_word() -> None:
    driver = on_disk_only()
    pause(driver, "abc", 5)
    pause(driver, "abc", 9)
    driver.pass_time(seconds(7))
    assert not driver.moves
    driver.pass_time(seconds(1))
    assert brought(driver) == spelled("abc")


def test_a_pause_may_be_told_of_no_block_at_all() -> None:
    driver = on_disk_only()
    pause(driver, "", 5)
    assert len(driver.store.expecting.returns) == 0


# ---- who came back


@pytest.mark.parametrize(
    "event",
    [
        ev.Fetch(2, 99, 0, spelled("abcd"), 0, None, first=3),
        ev.Fetch(2, 99, 0, [BlockKey(b"x"), BlockKey(b"abc")], 0, None, apart=True),
        ev.EndTurn(1, 0, spelled("abcd")),
        ev.EndSession(0, spelled("abc"), shared=2),
        ev.CloseSession(1),
    ],
    ids=["fetch", "fetch apart", "another pause", "end", "client gone"],
)
def test_a_conversation_that_goes_on_or_ends_before_is_not_brought(event: ev.Event) -> None:
    driver = on_disk_only()
    pause(driver, "abc", 5)
    driver.feed(event)
    driver.settle()
    assert len(driver.store.expecting.returns) == driver.store.expecting.returns.blocks == 0
    driver.pass_time(seconds(5))
    assert not driver.moves


@pytest.mark.parametrize(
    "event",
    [
        ev.Fetch(2, 99, 0, spelled("abx"), 0, None, first=3),
        ev.EndTurn(1, 0, spelled("ab")),
        ev.EndSession(0, spelled("abcd"), shared=3),
        ev.CloseSession(2),
    ],
    ids=["fetch", "another pause", "end", "client gone"],
)
def test_what_others_do_leaves_it_expected(event: ev.Event) -> None:
    driver = on_disk_only()
    pause(driver, "abc", 5)
    driver.feed(event)
    driver.settle()
    driver.pass_time(seconds(5))
    assert brought(driver)[-1:] == spelled("abc")[-1:]


def test_of_two_that_began_alike_the_one_that_goes_on_is_back() -> None:
    driver = on_disk_only()
    pause(driver, "abc", 5)
    pause(driver, "ab", 5)
    driver.release(driver.fetch("abcd", stage_blocks=0).lease)
    driver.pass_time(seconds(5))
    assert brought(driver) == spelled("ab")


# ---- how much


def test_what_ends_last_is_forgotten_beyond_the_limit() -> None:
    driver = on_disk_only(limits=Limits(expected_blocks_max=6))
    pause(driver, "abc", 9)
    pause(driver, "mno", 7)
    pause(driver, "abx", 8)
    driver.pass_time(seconds(10))
    assert brought(driver) == [*spelled("mno"), *spelled("abx")]
    pause(driver, "mnopqrs", 5)
    assert len(driver.store.expecting.returns) == driver.store.expecting.returns.blocks == 0


def test_a_pause_is_forgotten_whole_however_often_it_is_told() -> None:
    driver = on_disk_only(limits=Limits(expected_blocks_max=6))
    for turn in range(20):
        pause(driver, "abc", 5 + turn)
    pause(driver, "mno", 5)
    assert len(driver.store.expecting.returns) == 2


# ---- what policies hear


class Notebook(ChainLRU):
    """Writes down what it is told of blocks."""

    notes: list[tuple[Sequence[BlockKey], Sequence[BlockClass], AgentState]]

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        if chain:
            self.notes.append((chain, classes, state))


@pytest.mark.parametrize(
    ("expected_s", "state", "taken_for"),
    [
        (5, "tool_call", "tool_call"),
        (59.9, "tool_call", "tool_call"),
        (60, "tool_call", "turn_ended"),
        (5, "turn_ended", "turn_ended"),
    ],
)
def test_a_tool_that_takes_long_is_taken_for_a_person_until_it_is_nearly_over(
    expected_s: float, state: AgentState, taken_for: AgentState
) -> None:
    Notebook.notes = []
    policies = Policies(Notebook, AlwaysAdmit, NeverPromote())
    driver = Driver(store_config(tier("host", 8), policies=policies), LAYOUT)
    driver.publish("ab")
    pause(driver, "ab", expected_s, state=state, classes=["system", "user"])
    told = (spelled("ab"), ["system", "user"])
    assert Notebook.notes == [(*told, taken_for)]
    driver.pass_time(seconds(expected_s) - LEAD_NS)
    assert Notebook.notes == [(*told, taken_for), (*told, state)]


def test_what_is_soon_back_is_kept_before_what_takes_long() -> None:
    policies = Policies(SessionAware, AlwaysAdmit, NeverPromote())
    driver = Driver(store_config(tier("host", 8), policies=policies), LAYOUT)
    for text, expected_s in (("abc", 5), ("mno", 600)):
        driver.publish(text)
        pause(driver, text, expected_s)
    driver.publish("wxyz")
    assert driver.tiers_of("abc") == ("host",)
    assert driver.tiers_of("mno") == ()


def test_nothing_is_guessed_of_a_pause_that_is_known() -> None:
    driver = on_disk_only(Policies(ChainLRU, AlwaysAdmit, NeverPromote(), NextTurn))
    pause(driver, "abc", 30)
    assert driver.store.next_wakeup_ns() == 29 * NS_PER_S
    pause(driver, "mno", 0)
    assert driver.store.next_wakeup_ns() == NS_PER_S


# ---- the wire


def test_the_wire_takes_pauses_up_to_a_day() -> None:
    day_ns = EXPECTED_S_MAX * NS_PER_S
    body = pb.EndTurn(namespace=3, tool_call=True, expected_ns=day_ns)
    read = EventReader(session=7, keys_max=8).read
    assert read(pb.ClientMessage(end_turn=body), 0) == ev.EndTurn(7, 3, [], [], "tool_call", day_ns)
    body.expected_ns += 1
    with pytest.raises(InvalidRequest, match=f"expected_ns is {day_ns + 1}: send at most"):
        read(pb.ClientMessage(end_turn=body), 0)
