"""An engine computes what would take longer to load, and finds out when that has changed.

Reads and steps are slowed down by much more than they differ on a busy machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final

import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import (
    Local,
    alike,
    forgetful,
    hits,
    prompt,
    publish,
    tierd,
)
from tests.vllm.conftest import StartEngine
from tests.vllm.engines import Engine, Request
from tierd.core.units import MiB
from tierd_client.engines.vllm.paying import FIRST_LOADS

STEP_S_PER_TOKEN: Final = 0.001
"""So slow that loads are worth it, where reads are as they are."""

TURN_TOKENS: Final = 400
SHORT: Final = (40, 65, 70, 100)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A daemon and what it holds: prompts of `TURN_TOKENS`, in turn, more than it has memory for,
    and two of each of `LENGTHS`.

    Of none is enough left to compute that it told how long computing takes.
    """

    daemon: Daemon
    turn: Iterator[Request]
    short: list[Request]

    @property
    def tokens_read(self) -> int:
        """Of how many tokens blocks were read from disk."""
        return sum(each.tokens_hit[1] for each in self.daemon.status().namespaces)


@pytest.fixture(scope="module")
def on_disk(start_shared_engine: StartEngine) -> Iterator[OnDisk]:
    daemon = Daemon(
        128 * MiB,
        tiers__region_bytes=MiB,
        tiers__host__bytes=2 * MiB,
        leases__read_s=3600.0,
    )
    some = [Request(f"{at}", prompt(at, TURN_TOKENS)) for at in range(12)]
    others = [
        Request(f"{length} {at}", prompt(1000 * (1 + at) + length, length))
        for at in range(2)
        for length in SHORT
    ]
    publish(start_shared_engine(connector=tierd(daemon.address)), daemon, *some, *others)
    daemon.restart()
    yield OnDisk(daemon, cycle(some), others)
    daemon.end()


def choosing(daemon: Daemon, **more: Any) -> dict[str, Any]:
    """Return the settings for an engine that may decline loads, as they do by default."""
    return tierd(daemon.address, decline_slow_loads=True, **more)


def loads(engine: Engine, request: Request) -> bool:
    """Have `engine` answer, and say whether it has tried to load what it found."""
    forgetful(engine).run(request)
    return any(id == request.id and found for id, _, found in engine.tell("told")["matches"])


def test_slow_reads_are_declined_and_later_tried_again(
    on_disk: OnDisk, local: Local, start_engine: StartEngine
) -> None:
    engine = start_engine(connector=choosing(on_disk.daemon))
    engine.tell("slow_steps", seconds_per_token=STEP_S_PER_TOKEN)
    engine.run(Request("new", prompt(100, TURN_TOKENS)))
    eventually(lambda: loads(engine, next(on_disk.turn)))
    engine.tell("slow_reads", seconds=0.6)
    eventually(lambda: not loads(engine, next(on_disk.turn)))
    eventually(lambda: not on_disk.daemon.status().leases)
    request = next(on_disk.turn)
    alike(forgetful(engine).run(request)[request.id], local.computed(request))
    engine.tell("slow_reads", seconds=0.0)
    before = on_disk.tokens_read
    eventually(lambda: loads(engine, next(on_disk.turn)) and on_disk.tokens_read > before)
    request = next(on_disk.turn)
    alike(hits(engine, request)[request.id], local.computed(request))


def test_loads_that_never_come_in_time_are_declined(
    on_disk: OnDisk, local: Local, start_engine: StartEngine
) -> None:
    engine = start_engine(connector=choosing(on_disk.daemon, deadline_s=0.5))
    engine.tell("slow_steps", seconds_per_token=STEP_S_PER_TOKEN)
    engine.run(Request("new", prompt(200, TURN_TOKENS)))
    engine.tell("slow_reads", seconds=3.0)
    eventually(lambda: loads(engine, next(on_disk.turn)))
    eventually(lambda: not loads(engine, next(on_disk.turn)))
    request = next(on_disk.turn)
    alike(forgetful(engine).run(request)[request.id], local.computed(request))


def test_a_prompt_of_any_length_is_computed_where_that_is_faster(
    on_disk: OnDisk, start_engine: StartEngine
) -> None:
    """Of none is enough left to compute that it told how long prompts take, and yet."""
    engine = start_engine(connector=choosing(on_disk.daemon))
    engine.tell("slow_reads", seconds=2.0)
    tried = [request.id for request in on_disk.short if loads(engine, request)]
    assert tried == [request.id for request in on_disk.short[:FIRST_LOADS]]
