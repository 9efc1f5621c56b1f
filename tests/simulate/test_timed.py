"""The timed simulation: the real store on a virtual clock, beside figures made by hand."""

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest

from tierd.control import events as ev
from tierd.control import laws
from tierd.control.policies import Policies
from tierd.core.units import NS_PER_S, GiB, KiB, MiB
from tierd_bench.replay.agenda import Loop, Pace
from tierd_bench.replay.driver import replay_layout
from tierd_bench.replay.embedded import EmbeddedSizes
from tierd_bench.replay.user import Terms
from tierd_bench.simulate.media import MediumSpec
from tierd_bench.simulate.prefill import NoPrefill, PrefillFlops, PrefillRate
from tierd_bench.simulate.timed import MACHINE, Setting, TimedRun, simulate_timed
from tierd_bench.simulate.timed_clock import Clock
from tierd_bench.simulate.timed_daemon import Machine, SimulatedDaemon, store_config
from tierd_bench.simulate.timed_users import CachedUser, Engine, Replaying
from tierd_bench.traces import Trace, TraceRequest, read_trace
from tierd_client.splitting import Route
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.promotion import PromoteOnHit

DEMO = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"

AMPLE = Setting(EmbeddedSizes(0, 64 * MiB, 128 * MiB), KiB)
TIGHT = Setting(EmbeddedSizes(1 * MiB, 4 * MiB, 12 * MiB), KiB)


@pytest.fixture(scope="module")
def demo() -> Trace:
    return read_trace([DEMO])


def trace_of(*requests: TraceRequest) -> Trace:
    return Trace("by hand", 64, requests)


def request(session: str, blocks: str, gap_s: float = 0.0) -> TraceRequest:
    """Return a request whose prompt is spelled: equal prefixes of letters are equal blocks."""
    prefixes = (blocks[: end + 1].encode() for end in range(len(blocks)))
    ids = [int.from_bytes(blake2b(prefix, digest_size=7).digest()) for prefix in prefixes]
    return TraceRequest(session, None, ids, 0, gap_s)


def test_an_ample_cache_hits_what_an_infinite_one_does(demo: Trace) -> None:
    run = simulate_timed(demo, replace(AMPLE, users=1))
    assert run.hit_rate == pytest.approx(demo.infinite_hit_rate)
    assert run.hit_rate_by_tier["host"] == run.hit_rate
    assert run.blocks_published == demo.unique_blocks
    assert run.blocks_unpublished == 0


def test_tokens_asked_are_tokens_hit_and_missed(demo: Trace) -> None:
    run = simulate_timed(demo, TIGHT)
    assert run.tokens_asked == demo.references * demo.block_tokens
    assert sum(run.tokens_hit.values()) + run.tokens_missed == run.tokens_asked
    assert all(run.tokens_hit[tier] > 0 for tier in ("device", "host", "disk"))
    fetched = sum(size for route, size in run.bytes_by_route.items() if route != "publish")
    assert fetched >= sum(run.tokens_hit.values()) * KiB
    assert run.write_amplification > 1


def test_a_run_is_the_same_every_time(demo: Trace) -> None:
    setting = replace(TIGHT, prefill=PrefillRate(20_000))
    assert simulate_timed(demo, setting) == simulate_timed(demo, setting)


def test_the_laws_hold_throughout(demo: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(self: SimulatedDaemon, event: ev.Event) -> None:
        fed(self, event)
        laws.check(self.store)

    fed = SimulatedDaemon.feed
    monkeypatch.setattr(SimulatedDaemon, "feed", feed)
    some = Trace(demo.name, demo.block_tokens, demo.requests[:80])
    assert simulate_timed(some, TIGHT).requests == 80


def test_the_first_token_waits_for_what_is_missing_and_no_more() -> None:
    trace = trace_of(request("a", "xyz"), request("b", "xyzw"))
    media = {name: MediumSpec(1e15, 1e15, 0.0) for name in ("host", "disk")}
    free = Machine(media, message_s=0.0, daemon_s=0.0, client_s=0.0)
    setting = replace(AMPLE, users=1, machine=free, prefill=PrefillRate(64_000))
    run = simulate_timed(trace, setting)
    # Three blocks at a millisecond each, then the one that is new. Without a cache, all of both.
    assert run.ttft_cdf[0] == pytest.approx(1.0, abs=0.001)
    assert run.ttft_cdf[-1] == pytest.approx(3.0, abs=0.001)
    assert run.ttft_cold_cdf[-1] == pytest.approx(4.0, abs=0.001)
    assert run.gpu_s == pytest.approx(0.004)
    assert run.gpu_saved_s == pytest.approx(0.003)


def test_a_whole_hit_computes_the_last_token() -> None:
    trace = trace_of(request("a", "xyz"), request("b", "xyz"))
    run = simulate_timed(trace, replace(AMPLE, users=1, prefill=PrefillRate(1000)))
    assert run.gpu_s == pytest.approx((3 * 64 + 1) / 1000)


def test_of_two_who_miss_the_same_one_computes_it_and_the_other_waits() -> None:
    trace = trace_of(request("a", "xyz"), request("b", "xyz"))
    run = simulate_timed(trace, replace(AMPLE, users=2, engines=2, prefill=PrefillRate(1000)))
    assert run.blocks_published == 3
    assert run.tokens_hit["host"] == 3 * 64


def test_what_is_not_admitted_is_not_written(demo: Trace) -> None:
    everything = simulate_timed(demo, TIGHT).disk_bytes_written
    assert simulate_timed(demo, replace(TIGHT, admission="second_touch")).disk_bytes_written < (
        0.9 * everything
    )
    # An hour's share is in hand at the start, and the simulation lasts a second.
    frugal = replace(TIGHT, write_bytes_per_day=24 * MiB)
    assert simulate_timed(demo, frugal).disk_bytes_written < 3 * MiB


def test_prompts_queue_for_the_engines() -> None:
    trace = trace_of(request("a", "x"), request("b", "y"), request("c", "z"))
    setting = replace(AMPLE, users=3, prefill=PrefillRate(64))
    assert simulate_timed(trace, setting).seconds_cold == pytest.approx(3.0)
    assert simulate_timed(trace, replace(setting, engines=3)).seconds_cold == pytest.approx(1.0)


def test_gaps_are_kept_if_a_pace_is_asked_for() -> None:
    trace = trace_of(request("a", "x"), request("a", "xy", gap_s=5.0))
    paced = replace(AMPLE, users=1, pace=Pace(1.0, Loop.CLOSED))
    assert simulate_timed(trace, paced).seconds == pytest.approx(5.0, abs=0.01)
    assert simulate_timed(trace, replace(paced, pace=Pace())).seconds < 0.1


@pytest.mark.parametrize("route", ["staged", "direct"])
def test_what_has_not_come_by_the_deadline_is_computed(route: Route) -> None:
    long = "".join(chr(0x100 + at) for at in range(64))
    others = [request("a", chr(0x1000 + at) * 60, gap_s=1.0) for at in range(4)]
    trace = trace_of(request("a", long), *others, request("a", long, gap_s=1.0))
    crawling = MediumSpec(4 * MiB, 1 * GiB, 0.001)
    setting = Setting(
        EmbeddedSizes(0, 128 * MiB, 1 * GiB),
        16 * KiB,
        users=1,
        pace=Pace(1.0, Loop.CLOSED),
        machine=replace(MACHINE, media={**MACHINE.media, "disk": crawling}),
        terms=Terms(deadline_s=5.0, route=route),
    )
    run = simulate_timed(trace, setting)
    assert run.fetches_cut == {"deadline": 1}
    # In five seconds come 20 MiB. What comes by the staged route is the front of the chain, and
    # counts; of the others that does of which all before it have come.
    brought = run.bytes_by_route[f"disk-{route}"]
    assert 12 * MiB <= brought <= 20 * MiB
    counted = run.tokens_hit["disk"] * 16 * KiB
    assert counted == brought if route == "staged" else counted <= brought
    assert run.fetch_ms.max == pytest.approx(5000, abs=10)


def test_what_finds_no_slot_on_its_way_comes_directly(demo: Trace) -> None:
    sizes = EmbeddedSizes(0, 96 * MiB, 1 * GiB)
    run = simulate_timed(demo, Setting(sizes, 64 * KiB, users=8))
    assert run.bytes_by_route["disk-staged"] > 0
    assert run.bytes_by_route["disk-direct"] > 0
    assert run.fetches_cut == {}


def test_nothing_is_held_when_all_is_over(demo: Trace) -> None:
    clock = Clock()
    layout = replay_layout(demo, KiB)
    policies = Policies(ChainLRU, AlwaysAdmit, PromoteOnHit(2))
    daemon = SimulatedDaemon(clock, store_config(TIGHT.sizes, layout, policies), MACHINE, layout)
    user = CachedUser(daemon, Engine(clock, 1, NoPrefill()), Terms(), client_s=0.0)
    # The last one finds everything: no message follows that its release could ride on.
    trace = replace(demo, requests=(*demo.requests, demo.requests[-1]))
    replaying = Replaying(clock, trace, 8, Pace(), user)
    while len(replaying.outcomes) < len(trace.requests):
        assert clock.step()
    ended_ns = clock.now_ns
    # A second is enough for what is under way, and too little for a lease to run out.
    while clock.now_ns < ended_ns + NS_PER_S and clock.step():
        pass
    laws.check(daemon.store)
    assert not daemon.store.leases.leases
    assert not daemon.store.moves.by_number
    assert not any(daemon.store.room.queued)


def test_a_long_computation_keeps_its_reservation() -> None:
    trace = trace_of(request("a", "xyz"), request("a", "xyzw"))
    run = simulate_timed(trace, replace(AMPLE, users=1, prefill=PrefillRate(1)))
    assert run.gpu_s == pytest.approx(4 * 64)
    assert (run.blocks_published, run.blocks_unpublished) == (4, 0)
    # Each is written once: no lease ran out, to be asked for again.
    assert run.bytes_by_route["publish"] == 4 * 64 * KiB


def test_a_faster_disk_shortens_the_wait(demo: Trace) -> None:
    def first_token(disk: MediumSpec) -> TimedRun:
        machine = replace(MACHINE, media={**MACHINE.media, "disk": disk})
        return simulate_timed(demo, replace(TIGHT, machine=machine))

    slow = first_token(MediumSpec(100 * MiB, 1 * GiB, 0.001))
    fast = first_token(MediumSpec(4 * GiB, 4 * GiB, 0.0001))
    assert 3 * fast.ttft_ms.p90 < slow.ttft_ms.p90
    assert fast.seconds < slow.seconds


def test_flops_of_a_prompt() -> None:
    llama_8b = PrefillFlops(8e9, attention_width=32 * 4096, flops_per_s=1e15, utilisation=0.5)
    # 2 * 8e9 * 1000 for the matrices, 4 * 131072 * 1000 * 500 for attention.
    assert llama_8b.seconds(0, 1000) == pytest.approx((1.6e13 + 2.62144e11) / 5e14)
    in_two = llama_8b.seconds(0, 600) + llama_8b.seconds(600, 400)
    assert in_two == pytest.approx(llama_8b.seconds(0, 1000))
