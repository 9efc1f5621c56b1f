"""What the connector for vLLM decides without vLLM: settings, whether a load pays, how long to ask.

The connector itself is tested where vLLM is: `make test-vllm`.
"""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey
from tierd_client.engines.vllm.matching import Ask, Matcher
from tierd_client.engines.vllm.paying import FIRST_LOADS, Offer, Rates
from tierd_client.engines.vllm.settings import Settings, keep_requests_alive, settings_of


def transfer(**extra: object) -> Any:
    """Return a configuration as vLLM has it."""
    return SimpleNamespace(
        kv_connector_extra_config=extra,
        kv_load_failure_policy="fail",
        is_kv_consumer=True,
        is_kv_producer=False,
    )


def test_settings_are_read_and_the_role_is_respected() -> None:
    found = settings_of(transfer(address="/run/t.sock", block_tokens=64, deadline_s=2))
    assert found == Settings(address="/run/t.sock", block_tokens=64, deadline_s=2, saves=False)


@pytest.mark.parametrize(
    ("extra", "field", "remedy"),
    [
        ({"adress": "x"}, "adress", "address"),
        ({"loads": False}, "loads", "one of"),
        ({"block_tokens": "64"}, "block_tokens", "int"),
        ({"block_tokens": True}, "block_tokens", "int"),
        ({"block_tokens": -1}, "block_tokens", "multiple"),
        ({"deadline_s": 0}, "deadline_s", "more than 0"),
        ({"decline_slow_loads": "no"}, "decline_slow_loads", "bool"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_the_remedy(
    extra: dict[str, object], field: str, remedy: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        settings_of(transfer(**extra))
    said = str(refused.value)
    assert f"kv_connector_extra_config.{field}" in said
    assert repr(extra[field]) in said
    assert remedy in said


def test_a_lost_block_is_computed_anew_whatever_was_configured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = transfer()
    keep_requests_alive(given)
    assert given.kv_load_failure_policy == "recompute"
    assert "kv_load_failure_policy" in caplog.text
    caplog.clear()
    keep_requests_alive(given)
    assert not caplog.text


def offer(tokens: int, **blocks: int) -> Offer:
    return Offer(tokens, blocks)


def weighing(made: Rates) -> Rates:
    """Return rates that are past the first loads."""
    for _ in range(FIRST_LOADS):
        assert made.best([offer(1, host=1)])
    return made


def rates(prompt_s: float = 1.0) -> Rates:
    """Return rates of an engine for which 1000 tokens of a prompt take so long."""
    made = weighing(Rates())
    made.computed(1000, prompt_s + 0.5)
    made.computed(0, 0.5)
    return made


def test_a_load_pays_where_computing_takes_longer() -> None:
    found = rates()
    found.loaded({"disk": 8}, 1.0, 1.0)
    assert found.load_s({"disk": 8}) == pytest.approx(1.0)
    assert found.best([offer(1100, disk=8)]) == offer(1100, disk=8)
    assert found.best([offer(900, disk=8)]) is None


def test_a_step_takes_its_time_for_a_prompt_that_was_loaded_too() -> None:
    found = rates(prompt_s=0.1)
    assert found.compute_s(1000) == pytest.approx(0.1)
    found.loaded({"host": 8}, 0.2, 0.2)
    assert found.best([offer(1000, host=8)]) is None


def test_a_long_prompt_is_not_taken_for_free_where_short_ones_are() -> None:
    found = weighing(Rates())
    found.computed(64, 0.5)
    found.computed(0, 0.5)
    found.loaded({"host": 8}, 0.2, 0.2)
    assert found.best([offer(64, host=8)]) is None
    assert found.best([offer(1000, host=8)])


def test_what_passes_until_a_load_is_noticed_counts() -> None:
    found = rates()
    found.loaded({"host": 8}, 0.1, 1.1)
    assert found.load_s({"host": 8}) == pytest.approx(1.1)
    found.loaded({"host": 8}, 0.1, 0.1)
    assert found.load_s({"host": 8}) == pytest.approx(0.85)


def test_a_part_is_loaded_where_the_rest_does_not_pay() -> None:
    found = rates()
    found.loaded({"host": 8}, 0.1, 0.1)
    found.loaded({"disk": 8}, 3.0, 3.0)
    host, both = offer(1000, host=8), offer(2000, host=8, disk=8)
    assert found.best([host, both]) == host


def test_each_size_is_tried_once() -> None:
    """What a load takes of another size says only how much it takes at least."""
    found = rates(prompt_s=0.1)
    found.loaded({"disk": 64}, 0.64, 0.64)
    assert found.load_s({"disk": 1}) == pytest.approx(0.01)
    assert found.best([offer(200, disk=1)])
    found.loaded({"disk": 1}, 0.05, 0.05)
    assert found.best([offer(200, disk=1)]) is None
    assert found.load_s({"disk": 2}) == pytest.approx(0.05)
    assert found.best([offer(8000, disk=64)])


def test_what_a_mixed_load_took_is_laid_to_the_slower_tier() -> None:
    found = rates()
    found.loaded({"host": 8}, 0.1, 0.1)
    found.loaded({"host": 8, "disk": 8}, 1.1, 1.1)
    assert found.load_s({"host": 8}) == pytest.approx(0.1)
    assert found.load_s({"disk": 8}) == pytest.approx(1.0)


def test_a_load_that_was_given_up_counts_only_where_it_took_long() -> None:
    found = rates()
    found.loaded({"disk": 8}, 0.1, 0.1)
    found.failed({"disk": 8}, 0.01)
    assert found.load_s({"disk": 8}) == pytest.approx(0.1)
    found.failed({"disk": 8}, 5.0)
    assert found.best([offer(1000, disk=8)]) is None


def test_a_bad_minute_is_not_for_ever_and_trying_costs_little() -> None:
    found = rates()
    for _ in range(3):
        found.loaded({"disk": 8}, 3.0, 3.0)
        declined = 0
        while found.best([offer(1000, disk=8)]) is None:
            declined += 1
        assert declined == 39  # A try loses 2 s, a twentieth of what was computed meanwhile.
    found.loaded({"disk": 8}, 0.5, 0.5)
    assert found.best([offer(1000, disk=8)])


def test_the_first_loads_are_made_whatever_they_take() -> None:
    found = Rates()
    found.computed(1000, 0.1)
    for _ in range(FIRST_LOADS):
        assert found.best([offer(10, disk=1)])
        found.loaded({"disk": 1}, 9.0, 9.0)
    assert found.best([offer(10, disk=1)]) is None


def test_until_a_prompt_was_computed_it_is_a_step_a_token_at_most() -> None:
    found = weighing(Rates())
    found.loaded({"host": 1}, 1.0, 1.0)
    assert found.best([offer(1, host=1)]), "nobody knows anything of computing"
    found.computed(0, 0.01)
    assert found.best([offer(90, host=1)]) is None
    assert found.best([offer(110, host=1)])
    found.computed(100, 0.02)
    assert found.best([offer(110, host=1)]) is None


class _Space:
    """Stands in for a namespace whose daemon answers when it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.released = threading.Event()
        self.fault: Exception | None = None
        self.blocks = 3
        self.by_tier = {"host": 3}

    def hold(self, _: list[BlockKey], *, count_missing: bool) -> "_Space":
        assert self.answers.wait(30)
        if self.fault:
            raise self.fault
        return self

    def release(self) -> None:
        self.released.set()


KEYS = [BlockKey(bytes(16))]


def ask_of(matcher: Matcher, compute_s: float = 0.0) -> Ask:
    ask = matcher.ask(KEYS, compute_s)
    assert ask is not None
    return ask


@pytest.fixture
def space() -> _Space:
    return _Space()


@pytest.fixture
def matcher(space: _Space) -> Any:
    made = Matcher(SimpleNamespace(spaces=(space,)))  # type: ignore[arg-type]
    yield made
    space.answers.set()
    made.close()


def test_an_answer_that_is_late_is_asked_for_again(matcher: Matcher, space: _Space) -> None:
    ask = ask_of(matcher)
    assert ask.answer() is None
    assert not ask.overdue
    space.answers.set()
    while (holding := ask.answer()) is None:
        pass
    assert (holding.blocks, holding.by_tier) == (3, {"host": 3})


def test_while_the_daemon_stalls_nobody_waits_for_it(matcher: Matcher, space: _Space) -> None:
    ask = ask_of(matcher)
    while not ask.overdue:
        assert ask.answer() is None
    assert matcher.ask(KEYS, 0.0) is None
    space.answers.set()
    while ask.answer() is None:
        pass
    assert matcher.ask(KEYS, 0.0) is not None


def test_what_comes_for_a_request_that_is_gone_is_given_back(
    matcher: Matcher, space: _Space
) -> None:
    ask = ask_of(matcher)
    assert ask.answer() is None
    ask.forget()
    space.answers.set()
    assert space.released.wait(30)


def test_a_match_that_fails_is_a_miss(matcher: Matcher, space: _Space) -> None:
    space.fault = RuntimeError("broken")
    space.answers.set()
    ask = ask_of(matcher)
    while (holding := ask.answer()) is None:
        pass
    assert holding.blocks == 0


def test_without_a_daemon_there_is_nobody_to_ask() -> None:
    matcher = Matcher(SimpleNamespace(spaces=()))  # type: ignore[arg-type]
    assert matcher.ask(KEYS, 0.0) is None
    matcher.close()
