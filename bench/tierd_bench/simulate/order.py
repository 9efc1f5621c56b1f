"""In which order the requests of a trace come.

Recorded arrivals decide. Sessions whose start was not recorded begin at random, so many that on
average `overlap` are under way. Within one, recorded gaps are kept, and a call takes as long as
its answer at a usual pace. Where no gaps were recorded, call and gap are drawn from a lognormal
as wide as those of agents: many are short and some are long. So a seed gives one order.

Source: the spread of gaps in recordings of coding agents; an overlap of 40 and the default seed
give the published LRU figures of a trace without times, tau-bench, within a point.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd_bench.traces import TraceRequest
from tierd_bench.traces.requests import root_session

OVERLAP: Final = 40
SEED: Final = 0

_STEP_MEDIAN_S: Final = 2.0
_STEP_SIGMA: Final = 1.0
_TOKENS_PER_S: Final = 50.0


def in_order(
    requests: Sequence[TraceRequest], overlap: int, seed: int
) -> tuple[list[TraceRequest], NDArray[np.float64]]:
    """Return the requests in the order of time, and their times from the first on, in seconds.

    With an `overlap` of 0 sessions without a start follow one another as the trace has them.
    """
    times_s = np.array([_recorded(request) for request in requests], np.float64)
    unknown = np.flatnonzero(np.isnan(times_s))
    if len(unknown):
        times_s[unknown] = _modelled([requests[at] for at in unknown.tolist()], overlap, seed)
    order = np.argsort(times_s, kind="stable")
    times_s = times_s[order] - times_s.min(initial=np.inf) if len(order) else times_s
    return [requests[at] for at in order.tolist()], times_s


def _recorded(request: TraceRequest) -> float:
    return np.nan if request.arrival_s is None else request.arrival_s


def _modelled(requests: Sequence[TraceRequest], overlap: int, seed: int) -> NDArray[np.float64]:
    """Return a time for each request. Sub-agents begin with the session that they belong to."""
    random = np.random.default_rng(seed)
    sessions: dict[str, list[int]] = {}
    for at, request in enumerate(requests):
        sessions.setdefault(root_session(request.session), []).append(at)
    times_s = np.empty(len(requests))
    drawn = None if any(request.gap_s for request in requests) else random
    for places in sessions.values():
        times_s[places] = _within([requests[at] for at in places], drawn)
    lengths_s = [times_s[places[-1]] for places in sessions.values()]
    start_s = 0.0
    step_s = float(np.mean(lengths_s)) / max(1, overlap)
    for places, length_s in zip(sessions.values(), lengths_s, strict=True):
        times_s[places] += start_s
        start_s += random.exponential(step_s) if overlap else length_s + _STEP_MEDIAN_S
    return times_s


def _within(
    requests: Sequence[TraceRequest], random: np.random.Generator | None
) -> NDArray[np.float64]:
    """Return when the requests of one session come, counted from its start.

    A parent and its sub-agents run beside one another, in the order that the trace has.
    """
    if random is not None:
        steps_s = random.lognormal(np.log(_STEP_MEDIAN_S), _STEP_SIGMA, len(requests))
        return np.concatenate([np.zeros(1), np.cumsum(steps_s[:-1])])
    ends_s: dict[str, float] = {}
    times_s = np.zeros(len(requests))
    now_s = 0.0
    for at, request in enumerate(requests):
        # A sub-agent starts where the trace has come to.
        now_s = max(now_s, ends_s.get(request.session, now_s) + request.gap_s)
        times_s[at] = now_s
        ends_s[request.session] = now_s + request.output_tokens / _TOKENS_PER_S
    return times_s
