"""LoRA adapters: what was computed with one is found with that one, and with no other."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.integration.daemons import Daemon
from tests.vllm.asking import Local, alike, hit_max, hits, identical, prompt, publish, tierd
from tests.vllm.conftest import StartEngine
from tests.vllm.engines import Engine, Request
from tests.vllm.models import ADAPTER_RANK, make_adapter


@pytest.fixture(scope="module")
def start(start_shared_engine: StartEngine) -> StartEngine:
    """Starts engines that take adapters."""
    return partial(start_shared_engine, enable_lora=True, max_lora_rank=ADAPTER_RANK, max_loras=2)


@pytest.fixture(scope="module")
def engines(shared_daemon: Daemon, start: StartEngine) -> list[Engine]:
    return [start(connector=tierd(shared_daemon.address)) for _ in range(2)]


@pytest.fixture(scope="module")
def local(start: StartEngine) -> Local:
    return Local(start())


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    return str(make_adapter(tmp_path / "adapter", seed=1))


@pytest.mark.parametrize("length", [65, 300])
def test_another_process_goes_on_with_the_same_adapter(
    shared_daemon: Daemon, engines: list[Engine], local: Local, adapter: str, length: int
) -> None:
    first, second = engines
    request = Request("adapted", prompt(length, length), adapter=adapter)
    publish(first, shared_daemon, request)
    made = hits(second, request)["adapted"]
    identical(made, local.after_hit(request, hit_max(request)))


def test_the_base_and_another_adapter_share_nothing(
    shared_daemon: Daemon, engines: list[Engine], local: Local, adapter: str, tmp_path: Path
) -> None:
    first, second = engines
    one = Request("one", prompt(1, 200), adapter=adapter)
    other = replace(one, id="other", adapter=str(make_adapter(tmp_path / "other", seed=2)))
    base = replace(one, id="base", adapter="")
    answers = {request.id: local.computed(request) for request in (one, other, base)}
    assert len({made.tokens for made in answers.values()}) == 3
    for request in (one, other, base):
        made = publish(first, shared_daemon, request)
        assert not made[request.id].cached
        alike(made[request.id], answers[request.id])
    # Not at once: vLLM takes two adapters of one name in a step for one.
    for request in (one, other, base):
        alike(hits(second, request)[request.id], answers[request.id])


def test_an_adapter_that_was_replaced_between_two_runs_finds_nothing_of_the_old_one(
    shared_daemon: Daemon, engines: list[Engine], start: StartEngine, adapter: str
) -> None:
    request = Request("adapted", prompt(2, 200), adapter=adapter)
    publish(engines[0], shared_daemon, request)
    make_adapter(Path(adapter), seed=3)
    later = start(connector=tierd(shared_daemon.address))
    made = later.run(request)["adapted"]
    assert not made.cached
    identical(made, Local(start()).computed(request))


def test_of_an_adapter_that_is_replaced_in_a_running_engine_nothing_is_kept(
    shared_daemon: Daemon, engines: list[Engine], start: StartEngine, adapter: str
) -> None:
    """The engine's own cache still has blocks of the one before, and takes them for the new."""
    first, second = engines
    before = Request("before", prompt(3, 200), adapter=adapter)
    after = Request("after", [*before.prompt, *prompt(4, 200)], adapter=adapter)
    publish(first, shared_daemon, before)
    hits(second, before)
    make_adapter(Path(adapter), seed=4)
    first.run(replace(after, in_place=True))
    # One that has loaded the old one, and goes on with it; and one that loads the new.
    assert second.run(after)["after"].cached == hit_max(before)
    later = start(connector=tierd(shared_daemon.address))
    assert not later.run(after)["after"].cached
