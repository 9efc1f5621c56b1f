"""The charts of a plan's page. Each one has to be understood without the others."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from tierd.core.units import format_bytes
from tierd_bench.pages import GREY, Chart
from tierd_bench.planning.report import Report, Workload
from tierd_bench.planning.sections import break_even_words, percent
from tierd_bench.replay.charts import COLOURS

_COMPUTE: Final = "#8b5cf6"
_CURVE_POINTS: Final = 300
_WAYS: Final = {"no cache": GREY, "host": COLOURS["host"], "host and disk": COLOURS["disk"]}


def make_charts(report: Report) -> list[Chart]:
    """Return the charts of a plan, most important first."""
    charts = [_loading(report), _bandwidth(report)]
    if report.workload is None:
        return charts
    return [_hit_rate(report, report.workload), _ttft(report.workload), *charts]


def _hit_rate(report: Report, workload: Workload) -> Chart:
    figure = go.Figure()
    sizes = [size for size, _ in workload.curve]
    _line(figure, sizes, [100 * rate for _, rate in workload.curve], "chain LRU", _COMPUTE)
    hit = 0.0
    for tier in report.tiers:
        hit += workload.hit_rates[tier.tier]
        if tier.bytes:
            figure.add_scatter(
                x=[tier.bytes],
                y=[100 * hit],
                name=f"{tier.tier}, {format_bytes(tier.bytes)}",
                mode="markers",
                marker={"size": 12, "color": COLOURS[tier.tier]},
                hovertemplate=f"{tier.tier}: %{{y:.1f}} % up to here<extra></extra>",
            )
    infinite = workload.infinite_hit_rate
    figure.add_hline(y=100 * infinite, line={"width": 1.5, "dash": "dot", "color": GREY})
    ends = [*sizes, *(tier.bytes for tier in report.tiers if tier.bytes)]
    ticks = _size_ticks(min(ends), max(ends))
    figure.update_xaxes(
        title="size (logarithmic)", type="log", tickvals=ticks, ticktext=_sizes(ticks)
    )
    figure.update_yaxes(title="hit rate (%)", range=[0, 101])
    return Chart(
        "Hit rate against size",
        f"Share of prompt blocks that are held when asked for, on {workload.trace.name}, starting "
        f"empty. The dots are the tiers given, under {workload.policy}, the disk with what host "
        f"memory hits before it. The dotted line is an infinite cache, {percent(infinite)}.",
        figure,
        tag="simulated",
    )


def _ttft(workload: Workload) -> Chart:
    figure = go.Figure()
    for one in workload.ttft:
        shares = np.linspace(0, 100, min(_CURVE_POINTS, len(one.every_s)) + 1)
        marks = np.percentile(one.every_s, shares)
        _line(figure, marks.tolist(), shares.tolist(), one.tiers, _WAYS[one.tiers])
    figure.update_xaxes(title="time to first token (s, logarithmic)", type="log", dtick="D2")
    figure.update_yaxes(title="requests by then (%)", range=[0, 101])
    return Chart(
        "Time to first token",
        "Share of the trace's requests that have their first token by then, each alone on the "
        "machine: what is held is loaded if that is faster, the rest is computed.",
        figure,
        tag="simulated",
    )


def _loading(report: Report) -> Chart:
    figure = go.Figure()
    tokens = [one.tokens for one in report.lengths]
    _line(figure, tokens, [one.compute_s for one in report.lengths], "compute", _COMPUTE)
    _line(figure, tokens, [one.host_s for one in report.lengths], "load, host", COLOURS["host"])
    _line(figure, tokens, [one.disk_s for one in report.lengths], "load, disk", COLOURS["disk"])
    _token_axis(figure, tokens)
    figure.update_yaxes(title="time (s, logarithmic)", type="log", dtick=1)
    said = ", ".join(f"{one.tier} {break_even_words(one)}" for one in report.break_evens)
    return Chart(
        "Loading a prefix against computing it",
        f"How long a prefix of {report.kv.model} takes to compute, and to load from each tier at "
        f"the bandwidths below. The lower line wins. Loading does: {said}.",
        figure,
        tag="computed",
    )


def _bandwidth(report: Report) -> Chart:
    figure = go.Figure()
    tokens = [one.tokens for one in report.lengths]
    needed = [one.needed_bytes_per_s / 1e9 for one in report.lengths]
    _line(figure, tokens, needed, "needed to break even", _COMPUTE)
    for one in report.break_evens:
        rate = one.bytes_per_s / 1e9
        _line(figure, [tokens[0], tokens[-1]], [rate, rate], one.tier, COLOURS[one.tier])
    _token_axis(figure, tokens)
    figure.update_yaxes(title="GB/s (logarithmic)", type="log", dtick="D2")
    return Chart(
        "Bandwidth from which on loading pays",
        "The bandwidth at which loading a prefix takes as long as computing it. A tier whose line "
        "is above this one is worth reading at that length.",
        figure,
        tag="computed",
    )


def _line(
    figure: Any, across: Sequence[float], up: Sequence[float], name: str, colour: str
) -> None:
    figure.add_scatter(
        x=across,
        y=up,
        name=name,
        mode="lines",
        line={"width": 2.5, "color": colour},
        hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
    )


def _token_axis(figure: Any, tokens: Sequence[int]) -> None:
    ticks = tokens[:: max(1, len(tokens) // 6)]
    texts = [f"{one // 1024}k" if one >= 1024 else str(one) for one in ticks]
    figure.update_xaxes(
        title="tokens of the prefix (logarithmic)", type="log", tickvals=ticks, ticktext=texts
    )


def _size_ticks(least: int, most: int) -> list[int]:
    """Return powers of two from `least` to `most`, some six of them."""
    first, last = least.bit_length(), most.bit_length()
    return [1 << bit for bit in range(first, last + 1, max(1, (last - first) // 5))]


def _sizes(ticks: Sequence[int]) -> list[str]:
    return [format_bytes(size) for size in ticks]
