"""The charts of a simulation's page that need a timed run: time to first token, bytes written."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from tierd.core.units import format_bytes
from tierd_bench.pages import GREY, Chart
from tierd_bench.simulate.charts import SIMULATED, Style
from tierd_bench.simulate.page_words import percent, seconds
from tierd_bench.simulate.timed import TimedRun

_PERCENTILES: Final = (50, 90, 99)
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_FILLS: Final = ("-open", "-open-dot", "", "-dot")
_POINT: Final = 1.0


def make_timed_charts(timed: Sequence[TimedRun], styles: Mapping[str, Style]) -> list[Chart]:
    """Return the charts that `timed` has figures for."""
    runs = run_names(timed)
    charts = []
    if timed_prefill(timed):
        charts.append(_ttft(runs, styles))
    if any(run.disk_bytes_written for run in timed):
        charts.append(_written(runs, styles))
    return charts


def run_names(timed: Sequence[TimedRun]) -> dict[str, TimedRun]:
    """Return the runs by names that tell them apart, and are no longer than that takes."""
    ways: tuple[Callable[[TimedRun], str], ...] = (
        lambda run: run.policy,
        lambda run: run.admission,
        tier_sizes,
    )
    telling = [way for way in ways[1:] if len({way(run) for run in timed}) > 1]
    return {", ".join(way(run) for way in (ways[0], *telling)): run for run in timed}


def timed_prefill(timed: Sequence[TimedRun]) -> bool:
    """Return whether prompts took time to compute, without which there is no first token."""
    return any(run.ttft_cold_ms.max for run in timed)


def fastest(timed: Iterable[TimedRun]) -> TimedRun:
    """Return the run that has its first tokens soonest."""
    return min(timed, key=lambda run: run.ttft_ms.p50)


def tier_sizes(run: TimedRun) -> str:
    """Return the sizes of the tiers that a run has."""
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in run.tier_bytes.items())


def _ttft(runs: Mapping[str, TimedRun], styles: Mapping[str, Style]) -> Chart:
    figure = go.Figure()
    best = fastest(runs.values())
    for place, (name, run) in _placed(runs):
        dash = _DASHES[place % len(_DASHES)]
        _cdf(figure, run.ttft_cdf, name, styles[run.policy].colour, dash)
    _cdf(figure, best.ttft_cold_cdf, "no cache", GREY, "dash")
    for share in _PERCENTILES:
        figure.add_hline(y=share, line={"width": 1, "dash": "dot", "color": GREY}, opacity=0.5)
    figure.update_xaxes(
        title="time to first token (s, logarithmic)", type="log", dtick=_decades(figure)
    )
    figure.update_yaxes(title="requests by then (%)", range=[0, 101])
    return Chart(
        f"Median time to first token: {seconds(best.ttft_ms.p50)} with the cache, "
        f"{seconds(best.ttft_cold_ms.p50)} without",
        "Share of the requests that have their first token by then: queue, fetch and prefill "
        "included. The dotted lines are the 50th, 90th and 99th percentile. "
        f"Tiers: {tier_sizes(best)}.",
        figure,
        SIMULATED,
    )


def _cdf(figure: Any, marks_ms: Sequence[float], name: str, colour: str, dash: str) -> None:
    shares = np.linspace(0, 100, len(marks_ms))
    # A logarithmic axis has no place for requests that took no time.
    points = [(mark, share) for mark, share in zip(marks_ms, shares, strict=True) if mark > 0]
    figure.add_scatter(
        x=[mark / 1000 for mark, _ in points],
        y=[share for _, share in points],
        name=name,
        mode="lines",
        line={"width": 2.5, "color": colour, "dash": dash},
        hovertemplate=f"{name}: %{{y:.0f}} % within %{{x:.3g}} s<extra></extra>",
    )


def _decades(figure: Any) -> int | str:
    """Return which marks a logarithmic axis has room for: 1, 2 and 5, or 1 alone."""
    marks = [mark for line in figure.data for mark in line.x]
    return "D2" if max(marks) < 100 * min(marks) else 1


def _placed(runs: Mapping[str, TimedRun]) -> Iterator[tuple[int, tuple[str, TimedRun]]]:
    """Yield runs with their place among those of the same policy, which share a colour."""
    places: Counter[str] = Counter()
    for name, run in runs.items():
        yield places[run.policy], (name, run)
        places[run.policy] += 1


def _written(runs: Mapping[str, TimedRun], styles: Mapping[str, Style]) -> Chart:
    figure = go.Figure()
    for place, (name, run) in _placed(runs):
        style = styles[run.policy]
        figure.add_scatter(
            x=[run.disk_bytes_written / 1e9],
            y=[100 * run.hit_rate],
            name=name,
            mode="markers",
            marker={
                # Open, so that runs in one place are all seen.
                "symbol": style.symbol + _FILLS[place % len(_FILLS)],
                "color": style.colour,
                "size": 13,
                "line": {"width": 2.5},
            },
            hovertemplate=f"{name}: %{{x:.4g}} GB, %{{y:.2f}} %<extra></extra>",
        )
    rates = [100 * run.hit_rate for run in runs.values()]
    most = max(run.disk_bytes_written for run in runs.values()) / 1e9
    figure.update_xaxes(title="written to disk (GB)", range=[0, 1.15 * most])
    # Runs that are as good as equal should look like it.
    figure.update_yaxes(
        title="hit rate (% of tokens asked for)", range=[min(rates) - _POINT, max(rates) + _POINT]
    )
    best = max(runs, key=lambda name: runs[name].hit_rate)
    least = min(runs, key=lambda name: runs[name].disk_bytes_written)
    title = _outcome(best, runs[best])
    if least != best:
        title += f"; {_outcome(least, runs[least])}"
    return Chart(
        title,
        "Left and up is better: what is written wears the disk out, headers and index included. "
        f"A hit may come from any tier. Tiers: {tier_sizes(runs[best])}.",
        figure,
        SIMULATED,
    )


def _outcome(name: str, run: TimedRun) -> str:
    written = format_bytes(run.disk_bytes_written)
    return f"{name}: {percent(run.hit_rate)} hit, {written} written to disk"
