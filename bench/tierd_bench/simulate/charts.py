"""The charts of a simulation's page: hit rates, tokens saved, reuse.

Each one has to be understood without the others, and its title says what it shows of this trace.
What needs a timed run is in `charts_timed`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2, log10
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from tierd.core.units import format_bytes
from tierd_bench.pages import GREY, PALETTE, Chart
from tierd_bench.simulate.page_words import (
    block_bytes,
    capacity_words,
    count,
    error_words,
    half_reused,
    names_of,
    percent,
    points_of,
    runs_at,
    runs_by_policy,
    share,
    telling,
)
from tierd_bench.simulate.report import BoundPoint, Report, Run

SIMULATED: Final = "simulated"
_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
_DASHES: Final = ("solid", "dash", "dot")
_CURVE_POINTS: Final = 200
_EQUAL: Final = 0.0005
_MARKS_MAX: Final = 6
_TIMES: Final = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))
_LABELS: Final = {"full": 0.065, "half": 0.15}
"""The share of an axis that a label takes, by the width of the chart."""


@dataclass(frozen=True, slots=True)
class Style:
    """What tells one line from another, with and without colour."""

    colour: str
    symbol: str
    dash: str


def styles_of(policies: Iterable[str]) -> dict[str, Style]:
    """Return one look a policy, the same wherever it appears."""
    return {
        policy: Style(
            PALETTE[place % len(PALETTE)],
            _SYMBOLS[place % len(_SYMBOLS)],
            _DASHES[place // len(PALETTE) % len(_DASHES)],
        )
        for place, policy in enumerate(dict.fromkeys(policies))
    }


def make_charts(report: Report, styles: Mapping[str, Style]) -> list[Chart]:
    """Return the charts of a simulation without time, most important first."""
    charts = [_hit_rate(report, styles), _optimum(report, styles)]
    if report.sample_ratio == 1:
        charts.append(_saved(report, styles))
    return [*charts, _reuse(report)]


# ---- hit rates


def _hit_rate(report: Report, styles: Mapping[str, Style]) -> Chart:
    figure = go.Figure()
    _bound_lines(figure, report)
    for policy, runs in runs_by_policy(report).items():
        _policy_line(figure, styles[policy], runs, [run.hit_rate for run in runs])
    _capacity_axis(figure, report, _LABELS["full"])
    figure.update_yaxes(title="hit rate (% of block references)", rangemode="tozero")
    figure.update_layout(hovermode="x unified")
    return Chart(
        _hit_rate_title(report, telling(report)),
        "Hit rate against capacity: the share of the blocks asked for that were held, each policy "
        "starting empty. No policy can be above the dashed line, Belady's choice with the future "
        "known, and no cache above the dotted one, which never evicts. The thin line is plain LRU "
        f"of every size, computed from the trace.{error_words(report)}",
        figure,
        SIMULATED,
        "full",
    )


def _hit_rate_title(report: Report, point: BoundPoint) -> str:
    rates = {policy: run.hit_rate for policy, run in runs_at(report, point).items()}
    best = max(rates.values())
    leaders = [name for name, rate in rates.items() if best - rate < _EQUAL]
    verb = "hits" if len(leaders) == 1 else "hit"
    about = "about " if report.sample_ratio < 1 else ""
    return (
        f"At {capacity_words(report, point)}, {names_of(leaders)} {verb} {about}{percent(best)}; "
        f"the optimum is {percent(point.belady)}"
    )


def _bound_lines(figure: Any, report: Report) -> None:
    least, most = _span(report)
    _bound(figure, "infinite cache", "dot", [least, most], [report.infinite_hit_rate] * 2)
    points = points_of(report)
    sizes = [block_bytes(report) * point.capacity_blocks for point in points]
    _bound(figure, "optimum (Belady)", "dash", sizes, [point.belady for point in points], 2.5)
    blocks = np.geomspace(least, most, _CURVE_POINTS) / block_bytes(report)
    hits = np.cumsum(report.reuse.counts)
    at = np.minimum(blocks.astype(np.int64), len(hits) - 1)
    rates = hits[at] / max(1, report.reuse.references)
    across = (blocks * block_bytes(report)).tolist()
    _bound(figure, "LRU of every size", "solid", across, rates.tolist(), 1)


def _bound(
    figure: Any,
    name: str,
    dash: str,
    across: Sequence[float],
    rates: Sequence[float],
    width: float = 1.5,
) -> None:
    figure.add_scatter(
        x=across,
        y=[100 * rate for rate in rates],
        name=name,
        # A line of one point would not be seen.
        mode="lines" if len(across) > 1 else "lines+markers",
        marker={"symbol": "line-ew-open", "size": 40, "line": {"width": width}},
        line={"dash": dash, "width": width, "color": GREY},
        hovertemplate=f"{name}: %{{y:.2f}} %<extra></extra>",
    )


def _policy_line(figure: Any, style: Style, runs: Sequence[Run], rates: Sequence[float]) -> None:
    # What is drawn may be a multiple of the hit rate; then so is its error.
    errors = [
        100 * (run.error or 0.0) * rate / (run.hit_rate or 1.0)
        for run, rate in zip(runs, rates, strict=True)
    ]
    figure.add_scatter(
        x=[run.capacity_bytes for run in runs],
        y=[100 * rate for rate in rates],
        error_y={"array": errors, "thickness": 1, "visible": any(errors)},
        name=runs[0].policy,
        mode="lines+markers",
        marker={"symbol": style.symbol, "size": 8},
        line={"width": 2, "color": style.colour, "dash": style.dash},
        hovertemplate=f"{runs[0].policy}: %{{y:.2f}} %<extra></extra>",
    )


def _optimum(report: Report, styles: Mapping[str, Style]) -> Chart:
    figure = go.Figure()
    means = {}
    for policy, runs in runs_by_policy(report).items():
        shares = [run.optimum_share for run in runs]
        means[policy] = sum(shares) / len(shares)
        _policy_line(figure, styles[policy], runs, shares)
    _capacity_axis(figure, report, _LABELS["half"])
    figure.add_hline(y=100, line={"width": 1.5, "dash": "dash", "color": GREY})
    figure.update_yaxes(title="share of the optimum (%)")
    figure.update_layout(hovermode="x unified")
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    others = f", {worst} {percent(means[worst])}" if worst != best else ""
    where = (
        "On average" if len(report.bounds) > 1 else f"At {share(report.bounds[0].capacity_share)}"
    )
    return Chart(
        f"{where} {best} reaches {percent(means[best])} of the optimum{others}",
        "Hit rate of each policy over that of Belady's cache of the same size, which knows the "
        f"future. Averages are over the capacities drawn.{error_words(report)}",
        figure,
        SIMULATED,
    )


def _span(report: Report) -> tuple[float, float]:
    """Return the bytes at which the axis of capacities begins and ends."""
    sizes = [block_bytes(report) * point.capacity_blocks for point in points_of(report)]
    room = 1.15 if len(sizes) > 1 else 4.0
    return sizes[0] / room, sizes[-1] * room


def _capacity_axis(figure: Any, report: Report, label: float) -> None:
    least, most = _span(report)
    ticks: list[float] = []
    texts = []
    for point in points_of(report):
        size = block_bytes(report) * point.capacity_blocks
        if not ticks or log10(size / ticks[-1]) > label * log10(most / least):
            ticks.append(size)
            texts.append(f"{share(point.capacity_share)}<br>{format_bytes(size)}")
    figure.update_xaxes(
        title="capacity: share of unique blocks, and bytes (logarithmic)",
        type="log",
        range=[log10(least), log10(most)],
        tickvals=ticks,
        ticktext=texts,
    )


# ---- the trace


def _saved(report: Report, styles: Mapping[str, Style]) -> Chart:
    figure = go.Figure()
    point = telling(report)
    runs = runs_at(report, point)
    end_s = report.window_ends_s[-1]
    scale, unit = next((time for time in _TIMES if end_s > 2 * time[0]), (1.0, "s"))
    at = [0.0, *(each / scale for each in report.window_ends_s)]
    for policy, run in runs.items():
        figure.add_scatter(
            x=at,
            y=[0, *run.saved],
            name=policy,
            mode="lines",
            line={"width": 2, "color": styles[policy].colour, "dash": styles[policy].dash},
            hovertemplate=f"{policy}: %{{y:.4s}} tokens<extra></extra>",
        )
    figure.update_xaxes(title=f"time in the trace ({unit})", rangemode="tozero")
    figure.update_yaxes(title="prompt tokens saved so far", tickformat="~s", rangemode="tozero")
    figure.update_layout(hovermode="x unified")
    best = max(runs.values(), key=lambda run: run.saved[-1])
    asked = report.trace.prompt_tokens
    part = percent(best.saved[-1] / max(1, asked))
    return Chart(
        f"{best.policy} saves {count(best.saved[-1])} of {count(asked)} prompt tokens, {part}, "
        f"at {share(point.capacity_share)} of the unique blocks",
        "Tokens of prompts that need not be computed, added up from the start, at "
        f"{capacity_words(report, point)}, the capacity at which policies are furthest from the "
        f"optimum. Order of requests: {report.trace.order}.",
        figure,
        SIMULATED,
    )


def _reuse(report: Report) -> Chart:
    figure = go.Figure()
    bins = report.reuse.by_powers_of_two()
    total = max(1, report.reuse.references)
    first = report.reuse.first_uses / total
    never = len(bins) + 0.5
    _bars(figure, "used before", PALETTE[0], range(len(bins)), [n / total for _, n in bins])
    _bars(figure, "first use, which no cache hits", GREY, [never + 0.5], [first])
    for point in report.bounds:
        # A bar ends where the power of two that it counts up to is.
        at = log2(point.capacity_blocks)
        if at < len(bins):
            figure.add_vline(x=at, line={"width": 1, "dash": "dot", "color": GREY})
    step = -(-(len(bins) + 1) // _MARKS_MAX)
    marks = range(0, max(1, len(bins) + 1 - step), step)
    figure.update_xaxes(
        title="different blocks used in between (logarithmic), and bytes",
        tickangle=0,
        tickvals=[*marks, never],
        ticktext=[*(_mark(report, 1 << mark) for mark in marks), "never"],
        showgrid=False,
    )
    figure.update_yaxes(title="block references (%)", rangemode="tozero")
    half = format_bytes(half_reused(report) * block_bytes(report))
    others = f"; half of the others come back within {half}" if bins else ""
    return Chart(
        f"{percent(first)} of all references are first uses{others}",
        "How many different blocks were used from one use of a block to the next, itself included. "
        "LRU hits what lies left of its capacity; the dotted lines are the capacities simulated.",
        figure,
        "computed from the trace",
    )


def _bars(
    figure: Any, name: str, colour: str, ends: Iterable[float], parts: Sequence[float]
) -> None:
    figure.add_bar(
        x=[end - 0.5 for end in ends],
        y=[100 * part for part in parts],
        width=0.9,
        name=name,
        marker={"color": colour},
        hovertemplate=f"{name}: %{{y:.2f}} %<extra></extra>",
    )


def _mark(report: Report, blocks: int) -> str:
    return f"{blocks:,}<br>{format_bytes(blocks * block_bytes(report))}"
