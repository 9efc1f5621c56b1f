"""What the configuration names is what the store asks: admission, promotion, prefetch, notes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stores import Driver, page_layout, spelled, store_config, tier
from tierd.control import events as ev
from tierd.control.policies import Policies
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd.core.units import PAGE_BYTES
from tierd.service.config_file import ConfigError, load_config
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.prefetch import NextTurn, OnHint, QueueLookAhead
from tierd_policies.promotion import NeverPromote, PromoteOnHit
from tierd_policies.registry import ADMISSION, PREFETCH, PROMOTION

GAP_NS = 2_000_000_000
"""What `NextTurn` takes a pause to be before it knows better."""

SETTINGS: dict[str, Iterable[str]] = {
    "tiers.disk.admission": ADMISSION,
    "tiers.device.promotion": PROMOTION,
    "policies.prefetch": PREFETCH,
}


@pytest.mark.parametrize(
    ("setting", "name"), [(s, n) for s, known in SETTINGS.items() for n in known]
)
def test_every_registered_name_is_accepted(tmp_path: Path, setting: str, name: str) -> None:
    disk = [f"tiers.disk.directories={tmp_path}", "tiers.disk.bytes=1GiB"]
    load_config(overrides=[*disk, "tiers.disk.write_bytes_per_day=1GiB", f"{setting}={name}"])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lifo", "'lifo' is no policy; known: "),
        ("no.such:Lifo", "cannot import"),
        ("json:JSONDecoder", "lacks"),
    ],
)
def test_what_cannot_be_made_is_refused_with_its_reason(setting: str, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"{setting}={name}"])
    [problem] = caught.value.problems
    assert problem.setting.startswith(setting)
    assert said in problem.wrong


def test_endurance_without_a_budget_is_refused(tmp_path: Path) -> None:
    disk = [f"tiers.disk.directories={tmp_path}", "tiers.disk.bytes=1GiB"]
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[*disk, "tiers.disk.admission=endurance"])
    assert caught.value.problems[0].setting.startswith("tiers.disk.write_bytes_per_day")


def cold(policies: Policies) -> Driver:
    """Return a store that has the chains `ab` and `cd` on disk only."""
    tiers = (tier("host", 4), tier("disk", 32))
    driver = Driver(store_config(*tiers, policies=policies), page_layout("m"))
    for text in ("ab", "cd", "wxyz"):
        driver.publish(text)
        driver.settle()
    assert driver.tiers_of("ab") == driver.tiers_of("cd") == ("disk",)
    return driver


def prefetching(make: type[OnHint]) -> Driver:
    return cold(Policies(ChainLRU, AlwaysAdmit, NeverPromote(), make))


def test_a_conversation_comes_back_shortly_before_its_next_turn() -> None:
    driver = prefetching(NextTurn)
    driver.pass_time(1000)
    driver.feed(ev.EndTurn(1, 0, spelled("ab"), state="tool_call"))
    assert driver.store.next_wakeup_ns() == 1000 + GAP_NS // 2
    driver.pass_time(GAP_NS // 2)
    assert [start.urgency for start in driver.of(ev.StartMoves)] == ["prefetch"]
    driver.settle()
    assert "host" in driver.tiers_of("ab")
    assert driver.store.next_wakeup_ns() is None


def test_a_conversation_that_is_back_or_over_is_not_prefetched() -> None:
    driver = prefetching(NextTurn)
    driver.feed(ev.EndTurn(1, 0, spelled("cd"), state="tool_call"))
    driver.feed(ev.EndSession(0, spelled("cd"), shared=0))
    driver.feed(ev.EndTurn(1, 0, spelled("wxyz"), state="tool_call"))
    driver.release(driver.fetch("wxyz!").lease)
    driver.pass_time(GAP_NS)
    assert not driver.moves


def test_hints_for_a_queue_are_followed_a_few_at_a_time() -> None:
    driver = prefetching(lambda: QueueLookAhead(depth=1))  # type: ignore[arg-type]
    for text in ("ab", "cd"):
        driver.feed(ev.Prefetch(0, spelled(text)))
    driver.settle()
    assert "host" in driver.tiers_of("ab")
    assert driver.tiers_of("cd") == ("disk",)
    driver.release(driver.fetch("ab").lease)
    driver.settle()
    assert "host" in driver.tiers_of("cd")


class Thrifty:
    """Keeps half of the budget for later."""

    def __init__(self) -> None:
        self._saved_ratio = 0.0

    def afford(self, saved_ratio: float) -> None:
        self._saved_ratio = saved_ratio

    def admit(self, key: BlockKey) -> bool:
        return self._saved_ratio > 0.5


@pytest.mark.parametrize(("hour_blocks", "written"), [(4, 2), (8, 4), (0, 8)])
def test_a_policy_of_admission_hears_of_the_write_budget(hour_blocks: int, written: int) -> None:
    policies = Policies(ChainLRU, Thrifty, PromoteOnHit())
    disk = replace(tier("disk", 64), write_bytes_per_day=24 * hour_blocks * PAGE_BYTES)
    driver = Driver(store_config(tier("host", 16), disk, policies=policies), page_layout("m"))
    driver.publish("abcdefgh")
    driver.settle()
    copies = [driver.tiers_of("abcdefgh"[:depth]) for depth in range(1, 9)]
    assert copies.count(("host", "disk")) == written


class Notebook(ChainLRU):
    """Writes down what it is told of blocks."""

    notes: list[tuple[Sequence[BlockKey], Sequence[BlockClass], AgentState]]

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        self.notes.append((chain, classes, state))


def test_what_clients_say_of_blocks_reaches_the_policy() -> None:
    Notebook.notes = []
    policies = Policies(Notebook, AlwaysAdmit, NeverPromote())
    driver = Driver(store_config(tier("host", 8), policies=policies), page_layout("m"))
    driver.publish("ab")
    driver.feed(ev.EndTurn(1, 0, spelled("ab"), ("system", "thinking"), "tool_call"))
    driver.feed(ev.EndSession(0, spelled("ab"), shared=1))
    keys = spelled("ab")
    assert Notebook.notes == [
        (keys, ["system", "thinking"], "tool_call"),
        (keys[1:], ["unknown"], "session_ended"),
    ]
