"""What a match leases is given back as soon as nobody will load it: no lease expires here."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import forgetful, hits, matched, prompt, publish, tierd
from tests.vllm.conftest import StartEngine
from tests.vllm.engines import Engine, Request

FEW_BLOCKS = 22
"""Blocks for one long prompt and part of another."""


@pytest.fixture(scope="module")
def engines(shared_daemon: Daemon, start_shared_engine: StartEngine) -> list[Engine]:
    """An engine that publishes, and one with few blocks."""
    connector = tierd(shared_daemon.address)
    few = {"num_gpu_blocks_override": FEW_BLOCKS, "max_model_len": 640}
    return [start_shared_engine(connector=connector, **more) for more in ({}, few)]


@pytest.fixture(autouse=True)
def given_back(shared_daemon: Daemon) -> Iterator[None]:
    """Look before and after that nothing is leased, while the engines are there and idle."""
    eventually(lambda: not shared_daemon.status().leases)
    yield
    eventually(lambda: not shared_daemon.status().leases)


def test_after_a_load(shared_daemon: Daemon, engines: list[Engine]) -> None:
    """Not only when the request has ended, too."""
    first, few = engines
    request = Request("loaded", prompt(1, 300), max_tokens=200)
    publish(first, shared_daemon, request)
    forgetful(few).add(request)
    eventually(lambda: few.tell("step", count=1) and matched(few).get("loaded"))
    eventually(lambda: few.tell("step", count=1) and not shared_daemon.status().leases)
    few.finish()


def test_after_an_abort_between_match_and_load(
    shared_daemon: Daemon, engines: list[Engine]
) -> None:
    """What is found waits for room that another request has."""
    first, few = engines
    known = Request("known", prompt(2, 300))
    publish(first, shared_daemon, known)
    forgetful(few).add(Request("large", prompt(3, 560), max_tokens=60))
    few.tell("step", count=2)
    few.add(known)

    def found() -> bool:
        few.tell("step", count=1)
        return "known" in matched(few)

    eventually(found)
    assert shared_daemon.status().leases
    few.tell("abort", ids=["known"])
    eventually(lambda: not shared_daemon.status().leases)
    few.tell("abort", ids=["large"])
    few.finish()


def test_after_an_abort_before_the_daemon_has_answered(
    shared_daemon: Daemon, engines: list[Engine]
) -> None:
    first, few = engines
    known, other = (Request(name, prompt(seed, 300)) for name, seed in (("known", 4), ("other", 5)))
    publish(first, shared_daemon, known, other)
    forgetful(few)
    os.kill(shared_daemon.pid, signal.SIGSTOP)
    try:
        few.add(known)
        few.tell("step", count=1)
        few.tell("abort", ids=["known"])
    finally:
        os.kill(shared_daemon.pid, signal.SIGCONT)
    # What is asked later is answered later.
    hits(few, other)


def test_after_preemptions(shared_daemon: Daemon, engines: list[Engine]) -> None:
    first, few = engines
    known = [Request(f"known {at}", prompt(10 + at, 90 + at), max_tokens=150) for at in range(5)]
    publish(first, shared_daemon, *known)
    few.tell("told")
    forgetful(few).run(*known)
    assert few.tell("told")["preempted"]
