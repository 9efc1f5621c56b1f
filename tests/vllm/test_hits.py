"""What one engine computed another goes on from, and answers bit for bit as if it was its own."""

from dataclasses import dataclass
from functools import partial

import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import (
    Local,
    alike,
    forgetful,
    held_tokens,
    hit_max,
    hits,
    holds,
    identical,
    matched,
    prompt,
    publish,
    tierd,
)
from tests.vllm.conftest import StartDaemon, StartEngine
from tests.vllm.engines import BLOCK_TOKENS, Engine, Made, Request
from tierd.core.units import MiB

HOST, DISK = 0, 1


@dataclass(frozen=True, slots=True)
class Bench:
    """A daemon, an engine that fills it, one that uses it, and one that knows nothing of it."""

    daemon: Daemon
    first: Engine
    second: Engine
    local: Local

    def publish(self, *requests: Request) -> dict[str, Made]:
        return publish(self.first, self.daemon, *requests)

    def hit_tokens(self, tier: int) -> int:
        """Return how many tokens the daemon has served from a tier."""
        return sum(each.tokens_hit[tier] for each in self.daemon.status().namespaces)


@pytest.fixture(scope="module")
def bench(shared_daemon: Daemon, start_shared_engine: StartEngine, local: Local) -> Bench:
    connector = tierd(shared_daemon.address)
    return Bench(
        shared_daemon,
        start_shared_engine(connector=connector),
        start_shared_engine(connector=connector),
        local,
    )


@pytest.mark.parametrize("length", [33, 64, 65, 100, 257, 700])
def test_a_hit_is_bit_for_bit_a_local_hit(bench: Bench, length: int) -> None:
    request = Request("hit", prompt(length, length))
    computed = bench.publish(request)["hit"]
    identical(computed, bench.local.computed(request))
    before = bench.hit_tokens(HOST)
    made = hits(bench.second, request)["hit"]
    assert bench.hit_tokens(HOST) == before + hit_max(request)
    identical(made, bench.local.after_hit(request, hit_max(request)))


@pytest.mark.parametrize("length", [1, 20, 32])
def test_nothing_is_found_of_what_is_no_block(bench: Bench, length: int) -> None:
    """One token of a prompt is always computed: a prompt of one block has nothing to find."""
    request = Request("short", prompt(3000 + length, length))
    computed = bench.first.run(request)["short"]
    made = bench.second.run(request)["short"]
    assert matched(bench.second)["short"] == (0, 0)
    assert made.cached == 0
    identical(made, computed)


def test_a_prompt_that_goes_on_otherwise_uses_what_it_shares(bench: Bench) -> None:
    shared = Request("first", prompt(4000, 300))
    other = Request("other", [*shared.prompt[:170], *prompt(4001, 100)])
    bench.publish(shared)
    made = hits(bench.second, other, ends=[160])["other"]
    alike(made, bench.local.computed(other))


def test_turns_of_a_conversation_in_one_engine_after_the_other(bench: Bench) -> None:
    """What was generated is found, too."""
    history = prompt(5000, 130)
    found = 0
    for at in range(4):
        engine = (bench.first, bench.second)[at % 2]
        turn = Request(str(at), [*history, *prompt(5001 + at, 40)], max_tokens=50)
        before = held_tokens(bench.daemon)
        made = hits(engine, turn, ends=[found])[turn.id]
        alike(made, bench.local.computed(turn))
        # The last token that was generated has no KV yet.
        history = [*turn.prompt, *made.tokens]
        found = (len(history) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        new = found - made.cached
        eventually(partial(holds, bench.daemon, before + new))


def test_several_hits_at_once_are_those_of_each(bench: Bench) -> None:
    requests = [Request(str(at), prompt(1100 + at, 40 + 77 * at)) for at in range(8)]
    bench.publish(*requests)
    made = hits(bench.second, *requests)
    wanted = bench.local.after_hits(*requests)
    for request in requests:
        alike(made[request.id], wanted[request.id])


def test_hits_and_misses_at_once(bench: Bench) -> None:
    known = [Request(f"known {at}", prompt(1200 + at, 150 + at)) for at in range(3)]
    new = [Request(f"new {at}", prompt(1210 + at, 150 + at)) for at in range(3)]
    bench.publish(*known)
    mixed = [request for pair in zip(known, new, strict=True) for request in pair]
    ends = [hit_max(request) if request in known else 0 for request in mixed]
    # Asked once more, the new ones would be known.
    made = hits(bench.second, *mixed, ends=ends)
    for request in mixed:
        alike(made[request.id], bench.local.computed(request))


@pytest.mark.parametrize("local_blocks", [1, 3, 4])
def test_what_the_engine_has_itself_is_not_brought_again(bench: Bench, local_blocks: int) -> None:
    request = Request("both", prompt(1300 + local_blocks, 300))
    bench.publish(request)
    hits(bench.second, request)
    local = local_blocks * BLOCK_TOKENS
    bench.second.tell("local_tokens_max", tokens=local)
    made = bench.second.run(request)["both"]
    bench.second.tell("local_tokens_max", tokens=None)
    assert matched(bench.second)["both"] == (local, hit_max(request) - local)
    assert made.cached == hit_max(request)
    identical(made, bench.local.after_hit(request, hit_max(request)))


@pytest.mark.parametrize("seed", [1400, 1401])
def test_the_same_new_prompt_in_two_engines_at_once(bench: Bench, seed: int) -> None:
    """Both compute it, one publishes it, and neither minds."""
    request = Request("twice", prompt(seed, 500))
    bench.first.add(request)
    bench.second.add(request)
    bench.first.ask("run")
    bench.second.ask("run")
    both = [bench.first.made(), bench.second.made()]
    for made in both:
        alike(made["twice"], bench.local.computed(request))
    hits(bench.second, request)


def test_a_salt_keeps_the_same_prompt_apart(bench: Bench) -> None:
    request = Request("salted", prompt(1500, 200), salt="tenant")
    bench.publish(request)
    assert bench.second.run(Request("plain", request.prompt))["plain"].cached == 0
    hits(bench.second, request)


@pytest.mark.parametrize("length", [65, 257, 640])
def test_a_hit_from_disk_after_a_restart_of_the_daemon(bench: Bench, length: int) -> None:
    """The engines stay, and find the daemon again by themselves."""
    probe = Request("probe", prompt(1600, 50))
    request = Request("disk", prompt(2000 + length, length))
    bench.publish(request)
    bench.first.run(probe)
    bench.daemon.restart()
    eventually(lambda: forgetful(bench.second).run(probe)["probe"].cached)
    before = bench.hit_tokens(DISK)
    made = hits(bench.second, request)["disk"]
    assert bench.hit_tokens(DISK) == before + hit_max(request)
    identical(made, bench.local.after_hit(request, hit_max(request)))


def test_more_than_the_host_tier_holds(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    """Several requests at once, of which most blocks are on disk and some in memory."""
    daemon = start_daemon(64 * MiB, tiers__region_bytes=MiB, tiers__host__bytes=2 * MiB)
    first, second = (start_engine(connector=tierd(daemon.address)) for _ in range(2))
    requests = [Request(str(at), prompt(1700 + at, 400 + 7 * at)) for at in range(6)]
    publish(first, daemon, *requests)
    made = hits(second, *requests)
    wanted = local.after_hits(*requests)
    for request in requests:
        alike(made[request.id], wanted[request.id])
    assert sum(each.tokens_hit[DISK] for each in daemon.status().namespaces)
