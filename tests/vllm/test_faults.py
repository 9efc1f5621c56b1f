"""Daemons that die, hang or lose bytes under an engine: it computes, and answers the same."""

import os
import signal
from collections.abc import Callable
from random import Random

import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import (
    Local,
    alike,
    forgetful,
    hit_max,
    hits,
    identical,
    prompt,
    publish,
    reached,
    tierd,
)
from tests.vllm.conftest import StartDaemon, StartEngine, roomy_daemon
from tests.vllm.engines import Engine, Request

Harm = Callable[[Daemon, Random], None]


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return roomy_daemon(start_daemon)


@pytest.fixture
def engines(daemon: Daemon, start_engine: StartEngine) -> list[Engine]:
    return [start_engine(connector=tierd(daemon.address)) for _ in range(2)]


def flip_bit(daemon: Daemon, rng: Random) -> None:
    """Turn one bit of what a stopped daemon has on disk."""
    segment = rng.choice([path for path in daemon.segments() if any(path.read_bytes())])
    held = bytearray(segment.read_bytes())
    written = [at for at in range(0, len(held), 97) if held[at]]
    at = rng.choice(written)
    held[at] ^= 1 << rng.randrange(8)
    segment.write_bytes(held)


def cut_off(daemon: Daemon, rng: Random) -> None:
    """End a segment of a stopped daemon in the middle of what is written."""
    segment = rng.choice([path for path in daemon.segments() if any(path.read_bytes())])
    written = len(segment.read_bytes().rstrip(b"\0"))
    os.truncate(segment, rng.randrange(written // 4, written * 3 // 4))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("harm", [flip_bit, cut_off])
def test_a_damaged_block_is_computed_anew(
    daemon: Daemon, engines: list[Engine], local: Local, harm: Harm, seed: int
) -> None:
    first, second = engines
    request = Request("damaged", prompt(100 + seed, 490 + seed))
    publish(first, daemon, request)
    daemon.stop()
    harm(daemon, Random(seed))
    daemon.start()
    reached(second)
    made = second.run(request)["damaged"]
    assert sum(each.corrupt_blocks for each in daemon.status().namespaces) == 1
    alike(made, local.computed(request))
    # It was published anew.
    eventually(lambda: forgetful(second).run(request)["damaged"].cached == hit_max(request))
    alike(second.run(request)["damaged"], local.computed(request))


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_block_in_chunks_and_for_another_that_wants_it_too(
    daemon: Daemon, start_engine: StartEngine, local: Local, seed: int
) -> None:
    """What one has begun to bring, and what failed, the other must not take for computed."""
    connector = tierd(daemon.address)
    first, second = (start_engine(connector=connector, max_num_batched_tokens=64) for _ in range(2))
    request = Request("one", prompt(150 + seed, 490 + seed))
    longer = Request("other", [*request.prompt, *prompt(160 + seed, 100)])
    publish(first, daemon, request)
    daemon.stop()
    flip_bit(daemon, Random(seed))
    daemon.start()
    reached(second)
    second.add(request)
    second.tell("step", count=1 + seed)
    made = second.run(longer, Request("again", request.prompt))
    alike(made["one"], local.computed(request))
    alike(made["again"], made["one"])
    alike(made["other"], local.computed(longer))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("restarted", [False, True], ids=["host", "disk"])
def test_a_daemon_killed_between_match_and_load(
    daemon: Daemon, engines: list[Engine], local: Local, count: int, restarted: bool
) -> None:
    first, second = engines
    requests = [Request(str(at), prompt(200 + at, 300 + at)) for at in range(count)]
    publish(first, daemon, *requests)
    if restarted:
        daemon.restart()
    reached(second)
    second.tell("signal_at_match", pid=daemon.pid, signal=signal.SIGKILL)
    made = forgetful(second).run(*requests)
    for request in requests:
        alike(made[request.id], local.computed(request))
    daemon.kill()
    daemon.start()
    reached(second)
    for request in requests:
        found = hits(second, request)[request.id]
        identical(found, local.after_hit(request, hit_max(request)))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("restarted", [False, True], ids=["host", "disk"])
def test_a_daemon_that_hangs_between_match_and_load(
    daemon: Daemon, engines: list[Engine], local: Local, count: int, restarted: bool
) -> None:
    first, second = engines
    requests = [Request(str(at), prompt(300 + at, 300 + at)) for at in range(count)]
    publish(first, daemon, *requests)
    if restarted:
        daemon.restart()
    reached(second)
    second.tell("signal_at_match", pid=daemon.pid, signal=signal.SIGSTOP)
    try:
        made = forgetful(second).run(*requests)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    for request in requests:
        alike(made[request.id], local.computed(request))
    reached(second)
    found = hits(second, *requests)
    for request in requests:
        alike(found[request.id], local.computed(request))
    eventually(lambda: not daemon.status().leases)


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_daemon_lost_during_generation(
    daemon: Daemon, engines: list[Engine], local: Local, harm: signal.Signals
) -> None:
    first, second = engines
    known = [Request(f"known {at}", prompt(400 + at, 300 + at), 40) for at in range(3)]
    new = [Request(f"new {at}", prompt(410 + at, 300 + at), 40) for at in range(3)]
    later = Request("later", prompt(420, 300), 40)
    publish(first, daemon, *known)
    second.add(*known, *new)
    assert second.tell("step", count=4)
    os.kill(daemon.pid, harm)
    second.add(later)
    made = second.finish()
    for request in (*known, *new, later):
        alike(made[request.id], local.computed(request))
    if harm == signal.SIGKILL:
        daemon.kill()
        daemon.start()
    else:
        os.kill(daemon.pid, signal.SIGCONT)
    reached(second)
    hits(second, *known)
    eventually(lambda: not daemon.status().leases)


def test_an_engine_starts_without_a_daemon_and_finds_it_later(
    daemon: Daemon, start_engine: StartEngine, local: Local
) -> None:
    request = Request("early", prompt(500, 200))
    daemon.stop()
    engine = start_engine(connector=tierd(daemon.address))
    alike(engine.run(request)["early"], local.computed(request))
    daemon.start()
    reached(engine)
    publish(engine, daemon, Request("new", prompt(501, 200)))


def test_a_killed_engine_holds_nothing(daemon: Daemon, engines: list[Engine], local: Local) -> None:
    first, second = engines
    requests = [Request(str(at), prompt(600 + at, 300), 40) for at in range(4)]
    publish(first, daemon, *requests)
    second.add(*requests)
    second.tell("step", count=2)
    second.kill()
    eventually(lambda: not daemon.status().leases)
    made = hits(first, *requests)
    for request in requests:
        alike(made[request.id], local.computed(request))


def test_after_all_is_closed_nothing_is_left(
    daemon: Daemon, engines: list[Engine], local: Local
) -> None:
    requests = [Request(str(at), prompt(700 + at, 300), 10) for at in range(4)]
    for engine in engines:
        engine.run(*requests)
        engine.close()
    eventually(lambda: not daemon.status().leases)
    # The one that asks.
    eventually(lambda: daemon.status().sessions == 1)
    for engine in engines:
        assert "Traceback" not in engine.log()
