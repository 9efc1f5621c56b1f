"""How long each synthetic session is and how it grows, so that a workload's means come out.

A session has three numbers: its turns, its total, and its `lead`, the mean length of its prompts
as a share of its last prompt, the shared head left out of both (0.5 grows evenly from nothing,
more starts with much). Turns are lognormal, totals crowd below their bound, and the lead falls
with the number of turns. Draws are stratified, and the free constants are solved on the very
draws, so 50 sessions meet the means about as well as 500.

Pure: everything follows from the workload and the generator's state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.workload import Workload

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TURNS_MIN: Final = 3
_LEAD_MIN: Final = 0.2
_LEAD_MAX: Final = 0.92
_FIRST_POWER: Final = 3
"""A first prompt, as a share of the total, is the lead to this power: later growth is smooth."""

_TOKENS_PER_TURN_MIN: Final = 24
"""Below this a session would be longer than drawn: turns of a word or two are not an agent's."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One session: tokens that each turn appends and outputs, in order."""

    appends: Ints
    outputs: Ints


def draw_shapes(workload: Workload, sessions: int, rng: np.random.Generator) -> list[Shape]:
    """Return the shapes of `sessions` sessions.

    Raises:
        TraceError: the workload's means contradict one another.
    """
    _check(workload)
    totals = _draw_totals(workload, sessions, rng)
    turns = _draw_turns(workload, totals, rng)
    shortest = 1.25 * workload.shared_prompt + turns * _TOKENS_PER_TURN_MIN
    totals = np.maximum(totals, shortest)
    # What follows the head, up to the last prompt: the last output is in no prompt.
    output_part = workload.output / (workload.append + workload.output)
    private = (totals - workload.shared_prompt) * (1 - output_part / turns)
    leads = _solve_leads(workload, turns, private)
    firsts = workload.shared_prompt + leads**_FIRST_POWER * private
    # The part of later growth that is output, such that the mean of sessions' means is met.
    output_share = min(0.9, workload.output / float(np.mean((totals - firsts) / turns)))
    outputs = np.maximum(turns, output_share * (totals - firsts))
    plans = np.stack([turns, totals, firsts, outputs], axis=1).astype(np.int64).tolist()
    spread = workload.append_spread
    return [
        _grow(_Plan(*plan), float(lead), spread, rng)
        for plan, lead in zip(plans, leads, strict=True)
    ]


def _check(workload: Workload) -> None:
    grown = workload.turns * (workload.append + workload.output)
    total = workload.mean_total
    private = total - workload.shared_prompt
    prompt = workload.context + workload.append - workload.shared_prompt
    problems = {
        f"turns {workload.turns:g}": workload.turns < _TURNS_MIN,
        f"append or output below 1: {workload.append:g}, {workload.output:g}": (
            min(workload.append, workload.output) < 1
        ),
        f"total {total:g} above turns x (append + output) = {grown:g}": total > grown * 1.001,
        f"total {total:g} not below total_max {workload.total_max}": total >= workload.total_max,
        f"shared_prompt {workload.shared_prompt} over half the total": (
            workload.shared_prompt > total / 2
        ),
        f"context + append not within {_LEAD_MIN:g} to {_LEAD_MAX:g} of total, less the head": not (
            _LEAD_MIN * private < prompt < _LEAD_MAX * private
        ),
    }
    for problem, present in problems.items():
        if present:
            raise TraceError("workload", problem, "change one of these means")


def _stratified(count: int, rng: np.random.Generator) -> Floats:
    """Return uniform draws, one from each of `count` equal parts of (0, 1), shuffled."""
    return rng.permutation((np.arange(count) + rng.uniform(0.05, 0.95, count)) / count)


def _draw_totals(workload: Workload, sessions: int, rng: np.random.Generator) -> Floats:
    # A power of a uniform draw: most sessions end near the bound, few much earlier.
    power = workload.total_max / workload.mean_total - 1
    totals = workload.total_max * _stratified(sessions, rng) ** power
    scaled = totals * (workload.mean_total / totals.mean())
    return np.asarray(np.minimum(scaled, workload.total_max))


def _draw_turns(workload: Workload, totals: Floats, rng: np.random.Generator) -> Ints:
    normal = NormalDist()
    scores = np.array([normal.inv_cdf(part) for part in _stratified(len(totals), rng)])

    def turns(sigma: float) -> Ints:
        spread = np.exp(sigma * scores)
        scaled = np.rint(spread * (workload.turns / spread.mean()))
        return np.asarray(np.maximum(_TURNS_MIN, scaled), np.int64)

    # A wider spread has more sessions of few turns, so more tokens a turn in the mean of means.
    wanted = workload.append + workload.output
    sigma = _solve(lambda sigma: float(np.mean(totals / turns(sigma))) - wanted, 0.0, 2.0)
    return turns(sigma)


def _solve_leads(workload: Workload, turns: Ints, private: Floats) -> Floats:
    head = workload.shared_prompt
    prompt = workload.context + workload.append - head

    def leads(slope: float) -> Floats:
        relative = (turns / turns.mean()) ** -slope

        def at(scale: float) -> Floats:
            return np.asarray(np.clip(scale * relative, _LEAD_MIN, _LEAD_MAX))

        scale = _solve(lambda scale: float(np.mean(at(scale) * private)) - prompt, 0.01, 5.0)
        return at(scale)

    if workload.hit_rate is None:
        return leads(0.0)
    missed = 1 - workload.hit_rate

    def surplus(slope: float) -> float:
        asked = float(np.sum(turns * (head + leads(slope) * private)))
        told = float(np.sum(head + private))
        return told / asked - missed

    return leads(_solve(surplus, -1.0, 2.0))


def _solve(excess: Callable[[float], float], low: float, high: float) -> float:
    """Return where `excess`, which rises, is nearest to 0 between `low` and `high`."""
    for _ in range(50):
        middle = (low + high) / 2
        if excess(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class _Plan:
    turns: int
    total: int
    first: int
    outputs: int


def _grow(plan: _Plan, lead: float, spread: float, rng: np.random.Generator) -> Shape:
    steps = _growth(plan.turns, lead)
    appends = max(plan.turns - 1, plan.total - plan.first - plan.outputs)
    append_factors = rng.lognormal(0.0, spread, plan.turns - 1)
    output_factors = rng.lognormal(0.0, spread / 2, plan.turns)
    later = _apportion(appends, steps * append_factors)
    outputs = _apportion(plan.outputs, np.append(steps, steps[-1]) * output_factors)
    return Shape(np.concatenate(([max(1, plan.first)], later)).astype(np.int64), outputs)


def _growth(turns: int, lead: float) -> Floats:
    """Return the steps from prompt to prompt, as shares, that put the mean prompt at `lead`."""
    progress = np.arange(turns) / (turns - 1)
    first = lead**_FIRST_POWER
    wanted = (lead - first) / (1 - first)
    exponent = _solve(lambda power: wanted - float(np.mean(progress**power)), 0.02, 30.0)
    return np.asarray(np.maximum(np.diff(progress**exponent), 1e-9))


def _apportion(total: int, weights: Floats) -> Ints:
    """Return whole parts of `total` that go as `weights`, none below 1."""
    ends = np.floor(np.cumsum(weights) / weights.sum() * (total - len(weights)) + 1e-9)
    return np.asarray(np.diff(ends, prepend=0.0) + 1, np.int64)
