"""The simulation beside a real daemon: the same trace, sizes and users.

One user at a time: then little hangs on how fast this machine is, and a difference is the model's.
With more at once, as fast as they can, two replays differ from each other by more.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tierd.core.units import KiB, MiB
from tierd_bench.replay.driver import Drive
from tierd_bench.replay.embedded import EmbeddedSizes
from tierd_bench.replay.plan import Embedded, Plan, replay_trace
from tierd_bench.replay.report import Report
from tierd_bench.replay.user import PUBLISH
from tierd_bench.simulate.timed import Setting, TimedRun, simulate_timed
from tierd_bench.traces import read_trace

DEMO = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"
POINT = 0.01
REPLAYS = 3
"""A replay during which the machine stalls writes to disk late, and then reads from there what
another one reads from memory. One of three is not so."""


@pytest.mark.parametrize("disk", [0, 20 * MiB], ids=["no disk", "disk"])
def test_hits_and_bytes_are_those_of_a_replay(disk: int) -> None:
    trace = read_trace([DEMO])
    sizes = EmbeddedSizes(device=0, host=12 * MiB, disk=disk)
    run = simulate_timed(trace, Setting(sizes, KiB, users=1))
    assert run.evictions_by_tier["host"] > 0
    plan = Plan(KiB, Drive(users=1), Embedded(sizes), "", {})
    found = []
    for _ in range(REPLAYS):
        found = differences(run, replay_trace(trace, plan, lambda _: None).report)
        if not found:
            break
    assert not found


def differences(run: TimedRun, live: Report) -> list[str]:
    """Return what of a run is further from a replay than a point, or 5 % of the bytes."""
    assert live.corrupt_blocks == 0
    assert run.tokens_asked == live.tokens_asked
    shares = {tier: tokens / live.tokens_asked for tier, tokens in live.tokens_hit.items()}
    rates = {"any tier": (run.hit_rate, live.hit_rate)}
    rates |= {tier: (run.hit_rate_by_tier[tier], share) for tier, share in shares.items()}
    sizes = {"read": (_read(run.bytes_by_route), _read(live.bytes_by_route))}
    sizes["published"] = (run.bytes_by_route[PUBLISH], live.bytes_by_route[PUBLISH])
    wrong = [f"{name}: {a}, not {b}" for name, (a, b) in rates.items() if abs(a - b) > POINT]
    return wrong + [f"{n}: {a}, not {b}" for n, (a, b) in sizes.items() if abs(a - b) > b / 20]


def _read(bytes_by_route: Mapping[str, int]) -> int:
    return sum(size for route, size in bytes_by_route.items() if route != PUBLISH)
