"""Agents' trajectories with the means of the paper's three datasets (section 1.5), all at once.

The paper gives means only, and Turns * (Append + Gen) is 1.6 to 1.7 times Total: Append and Gen are
means over trajectories of each one's own mean. Both hold if the lengths of trajectories are alike
and their turns are not: with Total independent of Turns, mean(Total / Turns) is
mean(Total) * mean(1 / Turns). So turns are drawn with the spread that gives this, lengths
below the maximum with their mean, and the first prompt is as large as the mean context asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Final

from tierd_bench.cluster.assumptions import EXTRA_ROUND_TOKENS, UNEVENNESS_OF_TURNS

TRAJECTORIES: Final = 500
"""Of each of the paper's datasets."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One row of the paper's workload table: means, in tokens."""

    name: str
    longest: int
    turns: float
    append: float
    generated: float
    total: float
    context: float


DATASETS: Final = {
    row.name: row
    for row in (
        Dataset("32k", 32 * 1024, 60, 608, 148, 28_639, 17_183),
        Dataset("48k", 48 * 1024, 106, 474, 172, 42_607, 25_120),
        Dataset("64k", 64 * 1024, 157, 429, 176, 55_958, 32_721),
    )
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of an agent: `context` is what all earlier turns left, in tokens."""

    context: int
    append: int
    generated: int


Trajectory = tuple[Turn, ...]


def trajectories(dataset: Dataset, rng: Random, count: int = TRAJECTORIES) -> list[Trajectory]:
    """Return `count` trajectories that have the dataset's means."""
    turns = _turn_counts(dataset, count)
    lengths = _lengths(dataset, count)
    rng.shuffle(lengths)
    first = _first_share(dataset)
    return [
        _trajectory(dataset, rng, steps, length, first)
        for steps, length in zip(turns, lengths, strict=True)
    ]


def agents(dataset: Dataset, rng: Random, count: int) -> list[Trajectory]:
    """Return what each of `count` agents replays, in random order.

    After the first `TRAJECTORIES` they are copies, made different by a short first round of their
    own, as in the paper.
    """
    drawn = trajectories(dataset, rng, min(count, TRAJECTORIES))
    rng.shuffle(drawn)
    more = [_with_extra_round(drawn[rng.randrange(len(drawn))]) for _ in range(count - len(drawn))]
    return [*drawn, *more]


def means(rows: Sequence[Trajectory], longest: int) -> Dataset:
    """Return the means of trajectories as the paper's table has them."""
    return Dataset(
        "generated",
        longest,
        turns=fmean(len(row) for row in rows),
        append=fmean(fmean(turn.append for turn in row) for row in rows),
        generated=fmean(fmean(turn.generated for turn in row) for row in rows),
        total=fmean(_length(row) for row in rows),
        context=fmean(turn.context for row in rows for turn in row),
    )


def _length(row: Trajectory) -> int:
    return row[-1].context + row[-1].append + row[-1].generated


def _quantiles(count: int, power: float) -> list[float]:
    """Return evenly spaced quantiles of u ** power, u uniform, scaled to a mean of 1.

    The mildest law with a given spread: it has an upper end, so that the end of a closed loop is
    not one agent's.
    """
    raw = [((place + 0.5) / count) ** power for place in range(count)]
    mean = fmean(raw)
    return [value / mean for value in raw]


def _turn_counts(dataset: Dataset, count: int) -> list[int]:
    """Return turns of every trajectory: their mean, and the wanted mean of the inverse."""
    wanted = dataset.turns * (dataset.append + dataset.generated) / dataset.total
    least, most = 0.0, 0.99
    for _ in range(40):
        power = (least + most) / 2
        counts = [max(2, round(dataset.turns * q)) for q in _quantiles(count, power)]
        if fmean(counts) * fmean(1 / steps for steps in counts) < wanted:
            least = power
        else:
            most = power
    return [max(2, round(dataset.turns * q)) for q in _quantiles(count, least)]


def _lengths(dataset: Dataset, count: int) -> list[int]:
    power = dataset.longest / dataset.total - 1
    return [round(dataset.total * quantile) for quantile in _quantiles(count, power)]


def _first_share(dataset: Dataset) -> float:
    """Return the first prompt's share of a trajectory, for which the mean context comes out.

    A context that grows evenly from f * total to total has the mean (1 + f) / 2 * total; the first
    turn of all has none.
    """
    later = 1 - 1 / dataset.turns
    return max(0.0, 2 * dataset.context / (dataset.total * later) - 1)


def _trajectory(dataset: Dataset, rng: Random, steps: int, length: int, first: float) -> Trajectory:
    spoken = length * dataset.generated / (dataset.append + dataset.generated)
    first_prompt = max(1, round(length * first))
    appended = _parts(rng, length - spoken - first_prompt, steps - 1)
    generated = _parts(rng, spoken, steps)
    turns = [Turn(0, first_prompt, generated[0])]
    for append, answer in zip(appended, generated[1:], strict=True):
        last = turns[-1]
        turns.append(Turn(last.context + last.append + last.generated, append, answer))
    return tuple(turns)


def _parts(rng: Random, total: float, count: int) -> list[int]:
    """Return `count` uneven positive parts of about `total`."""
    shape = 1 / UNEVENNESS_OF_TURNS**2
    weights = [rng.gammavariate(shape, 1.0) for _ in range(count)]
    scale = max(0.0, total) / sum(weights)
    return [max(1, round(weight * scale)) for weight in weights]


def _with_extra_round(row: Trajectory) -> Trajectory:
    added = EXTRA_ROUND_TOKENS + 1
    moved = (Turn(turn.context + added, turn.append, turn.generated) for turn in row)
    return (Turn(0, EXTRA_ROUND_TOKENS, 1), *moved)
