"""Rows of calls that move no block: matching, and viewing blocks in place."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Final

from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import NotMeasured, Stage
from tierd_bench.bench.timing import cpu_ns, seconds, take_turns
from tierd_client import BlockKey

_MS: Final = 1000
_NS_PER_MS: Final = 1_000_000
_PING: Final = "round trip of an empty message on the open stream"


def fetch_views(stage: Stage) -> Figures:
    """Return the time until every view of a long chain is in hand."""
    [chain] = stage.held(1, stage.sizes.views)

    def view() -> float:
        return _MS * median(_views_s(stage, chain) for _ in range(stage.sizes.calls))

    values, limits = take_turns(stage.sizes.host_runs, stage.tell, view, _ping_ms(stage))
    return Figures("ms", values, limits, _PING, f"{len(chain)} blocks")


def match(stage: Stage, blocks: int) -> Figures:
    """Return the time of matching a chain that is held whole."""
    [chain] = stage.held(1, blocks)
    call = partial(_match, stage, chain)

    def matching() -> float:
        return _MS * median(seconds(call) for _ in range(stage.sizes.calls))

    values, limits = take_turns(stage.sizes.host_runs, stage.tell, matching, _ping_ms(stage))
    return Figures("ms", values, limits, _PING, note=f"{blocks} keys, all held")


def match_inside(stage: Stage, blocks: int) -> Figures:
    """Return the daemon's processor time for a match, less that for an empty message."""
    [chain] = stage.held(1, blocks)
    matching = partial(_daemon_ms, stage, partial(_match, stage, chain))
    pinging = partial(_daemon_ms, stage, stage.client.ping)
    both, pings = take_turns(stage.sizes.host_runs, stage.tell, matching, pinging)
    values = tuple(whole - ping for whole, ping in zip(both, pings, strict=True))
    what = "the daemon's processor time for an empty message"
    note = f"{blocks} keys: message, decision and answer, without the empty message's share"
    return Figures("ms", values, pings, what, note)


def _match(stage: Stage, chain: Sequence[BlockKey]) -> None:
    found = stage.namespace.match(chain).blocks
    if found < len(chain):
        raise NotMeasured(f"of {len(chain)} held blocks {found} were matched")


def _views_s(stage: Stage, chain: Sequence[BlockKey]) -> float:
    start = time.perf_counter()
    views = stage.namespace.fetch_views(chain)
    found = sum(1 for _ in views)
    end = time.perf_counter()
    views.release()
    if found < len(chain):
        raise NotMeasured(f"of {len(chain)} held blocks {found} were in memory")
    return end - start


def _ping_ms(stage: Stage) -> Callable[[], float]:
    def ping() -> float:
        return _MS * median(seconds(stage.client.ping) for _ in range(stage.sizes.calls))

    return ping


def _daemon_ms(stage: Stage, call: Callable[[], object]) -> float:
    before = cpu_ns(stage.daemon_pid)
    for _ in range(stage.sizes.calls):
        call()
    return (cpu_ns(stage.daemon_pid) - before) / _NS_PER_MS / stage.sizes.calls
