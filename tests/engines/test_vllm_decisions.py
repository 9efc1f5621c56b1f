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
from tierd_client.engines.vllm.paying import Rates
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


def test_nothing_is_declined_before_there_are_measurements() -> None:
    rates = Rates()
    for _ in range(8):
        rates.computed(1000, 0.001)
    assert not rates.known
    for _ in range(8):
        rates.loaded({"disk": 1000}, 1.0, 1.1)
    assert rates.known


def test_a_load_pays_where_computing_takes_longer() -> None:
    rates = Rates()
    rates.computed(1000, 1.0)
    rates.loaded({"host": 1_000_000}, 0.1, 0.1)
    rates.loaded({"disk": 1_000_000}, 1.0, 1.0)
    assert rates.worth({"host": 1_000_000}, 1000) == pytest.approx(0.9)
    assert rates.worth({"disk": 1_000_000}, 500) == pytest.approx(-0.5)
    assert rates.compute_s(500) == pytest.approx(0.5)


def test_steps_of_a_few_tokens_are_not_how_fast_prompts_are_computed() -> None:
    rates = Rates()
    rates.computed(1000, 1.0)
    rates.computed(1, 1.0)
    assert rates.compute_s(1000) == pytest.approx(1.0)


def test_what_a_mixed_load_took_is_laid_to_the_slower_tier() -> None:
    rates = Rates()
    rates.computed(1000, 1.0)
    rates.loaded({"host": 1_000_000}, 0.1, 0.1)
    rates.loaded({"host": 1_000_000, "disk": 1_000_000}, 1.1, 1.1)
    assert rates.worth({"disk": 1_000_000}, 1000) == pytest.approx(0.0)


def test_a_bad_minute_is_not_for_ever() -> None:
    rates = Rates()
    rates.computed(1000, 1.0)
    rates.loaded({"disk": 1_000_000}, 10.0, 12.0)
    for _ in range(100):
        if rates.worth({"disk": 1_000_000}, 1000) > 0:
            break
        rates.declined()
    assert rates.worth({"disk": 1_000_000}, 1000) > 0


class _Space:
    """Stands in for a namespace whose daemon answers when it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.released = threading.Event()
        self.fault: Exception | None = None
        self.blocks = 3
        self.by_tier = {"host": 3}

    def hold(self, _: list[BlockKey]) -> "_Space":
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
