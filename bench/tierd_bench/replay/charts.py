"""The charts of a replay's page. Each one has to be understood without the others."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tierd.core.units import NS_PER_MS, NS_PER_S, format_bytes
from tierd_bench.pages import Chart
from tierd_bench.replay.driver import Driven
from tierd_bench.replay.outcomes import Outcome
from tierd_bench.replay.report import Report, fetch_times_ns, publish_times_ns
from tierd_bench.replay.samples import Sampler

COLOURS: Final = {
    "device": "#8b5cf6",
    "host": "#14a3a3",
    "disk": "#e8912d",
    "disk-staged": "#e8912d",
    "disk-direct": "#c2571a",
    "remote": "#d6457b",
    "publish": "#3b82f6",
    "fetch": "#14a3a3",
}
"""One colour a tier, wherever it appears; routes have that of the tier they start from."""

_OTHER: Final = "#7b8794"
_POINTS_MAX: Final = 60
_REQUESTS_A_POINT: Final = 4
_CURVE_POINTS: Final = 400


def make_charts(report: Report, driven: Driven, sampler: Sampler) -> list[Chart]:
    """Return the charts of a replay, most important first."""
    return [
        _hit_rate(report, driven),
        _routes(report),
        _latency(driven.outcomes),
        _occupancy(report, sampler),
    ]


def _hit_rate(report: Report, driven: Driven) -> Chart:
    outcomes = driven.outcomes
    # Points of equally many requests: while nothing ends, there is nothing to say.
    points = max(1, min(_POINTS_MAX, len(outcomes) // _REQUESTS_A_POINT))
    groups = [group for group in _cut(outcomes, points) if sum(o.asked for o in group)]
    at_s = [group[-1].end_ns / NS_PER_S for group in groups]
    figure = go.Figure()
    # The coldest tier lies at the bottom, so that the hot ones are what it is topped with.
    for tier in reversed(list(report.tokens_hit)):
        if not report.tokens_hit[tier]:
            continue
        figure.add_scatter(
            x=at_s,
            y=[_share(group, tier) for group in groups],
            name=tier,
            stackgroup="tiers",
            mode="lines",
            line={"width": 0.5, "color": _colour(tier)},
            fillcolor=_colour(tier),
            hovertemplate=f"{tier} %{{y:.1f}} %<extra></extra>",
        )
    _add_infinite(figure, report)
    figure.update_xaxes(title="time since the start (s)", range=[0, report.wall_s])
    figure.update_yaxes(title="tokens asked (%)", range=[0, 100])
    figure.update_layout(hovermode="x unified")
    caption = (
        "Share of the tokens asked for that each tier served; the rest up to 100 % was missed. "
        f"Every point is of about {len(outcomes) / points:.0f} requests. The dotted line is what "
        "a cache that never evicts would hit over the whole trace, starting empty."
    )
    return Chart("Hit rate over time, by tier", caption, figure)


def _cut(outcomes: Sequence[Outcome], count: int) -> list[Sequence[Outcome]]:
    """Return `outcomes` in `count` runs of one length, give or take one."""
    ends = [len(outcomes) * place // count for place in range(count + 1)]
    return [outcomes[start:end] for start, end in pairwise(ends)]


def _share(group: Sequence[Outcome], tier: str) -> float:
    hit = sum(outcome.hits.get(tier, 0) for outcome in group)
    return 100 * hit / sum(outcome.asked for outcome in group)


def _add_infinite(figure: Any, report: Report) -> None:
    rate = 100 * report.infinite_cache_hit_rate
    figure.add_scatter(
        x=[0, report.wall_s],
        y=[rate, rate],
        name=f"infinite cache, {rate:.1f} %",
        mode="lines",
        line={"width": 1.5, "dash": "dot", "color": _OTHER},
        hoverinfo="skip",
    )


def _routes(report: Report) -> Chart:
    names = [name for name, size in report.bytes_by_route.items() if size][::-1]
    gigabytes = [report.bytes_by_route[name] / 1e9 for name in names]
    rates = [report.gb_per_s_by_route[name] for name in names]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, values, unit in ((1, gigabytes, "GB"), (2, rates, "GB/s a user")):
        figure.add_bar(
            x=values,
            y=names,
            orientation="h",
            marker={"color": [_colour(name) for name in names]},
            text=[f"{value:.3g}" for value in values],
            textposition="outside",
            cliponaxis=False,
            showlegend=False,
            hovertemplate=f"%{{y}}: %{{x:.4g}} {unit}<extra></extra>",
            row=1,
            col=column,
        )
        # Room for the numbers behind the bars.
        figure.update_xaxes(title=unit, range=[0, 1.18 * max([*values, 1e-9])], row=1, col=column)
    figure.update_layout(bargap=0.45)
    caption = (
        "Left, bytes moved over each route, publish being the way in; right, bytes over the time "
        "that one user spent moving them, without the round trips to the daemon. "
        f"All fetches together moved {report.fetch_gb_per_s:.3g} GB/s over the whole replay."
    )
    return Chart("Bytes and bandwidth, by route", caption, figure)


def _latency(outcomes: Sequence[Outcome]) -> Chart:
    figure = go.Figure()
    for name, times_ns in (
        ("fetch", fetch_times_ns(outcomes)),
        ("publish", publish_times_ns(outcomes)),
    ):
        if not times_ns:
            continue
        shares = np.linspace(0, 100, min(_CURVE_POINTS, len(times_ns)) + 1)
        marks = np.percentile(times_ns, shares) / NS_PER_MS
        figure.add_scatter(
            x=marks.tolist(),
            y=shares.tolist(),
            name=f"{name} ({len(times_ns):,})",
            mode="lines",
            line={"width": 2.5, "color": _colour(name)},
            hovertemplate=f"{name}: %{{y:.1f}} % within %{{x:.3g}} ms<extra></extra>",
        )
    for share in (50, 90, 99):
        figure.add_hline(y=share, line={"width": 1, "dash": "dot", "color": _OTHER}, opacity=0.5)
    figure.update_xaxes(title="time (ms, logarithmic)", type="log", dtick="D2")
    figure.update_yaxes(title="requests done by then (%)", range=[0, 101])
    caption = (
        "Share of requests whose fetch, or publish, took at most this long; the dotted lines are "
        "the 50th, 90th and 99th percentile. A fetch includes the wait for blocks that another "
        "user was writing, a publish includes making the contents."
    )
    return Chart("Latency of a request", caption, figure)


def _occupancy(report: Report, sampler: Sampler) -> Chart:
    figure = go.Figure()
    at_s = [sample.at_ns / NS_PER_S for sample in sampler.samples]
    most = 0.0
    caps: dict[str, int] = {}
    for sample in sampler.samples:
        caps |= {name: tier.bytes_max for name, tier in sample.tiers.items() if tier.bytes_max}
    for name, cap in caps.items():
        # Nothing, while the daemon was away, leaves a gap in the line.
        used = [s.tiers[name].bytes_used if name in s.tiers else None for s in sampler.samples]
        shares = [None if count is None else 100 * count / cap for count in used]
        most = max([most, *(share for share in shares if share is not None)])
        figure.add_scatter(
            x=at_s,
            y=shares,
            text=["" if count is None else format_bytes(count) for count in used],
            name=f"{name}, {format_bytes(cap)}",
            mode="lines",
            line={"width": 2.5, "color": _colour(name)},
            hovertemplate=f"{name} %{{y:.1f}} %, %{{text}}<extra></extra>",
        )
    figure.update_xaxes(title="time since the start (s)", range=[0, report.wall_s])
    figure.update_yaxes(title="capacity in use (%)", range=[0, min(101.0, 1.15 * most + 1)])
    figure.update_layout(hovermode="x unified")
    caption = (
        "Share of each tier's bytes that hold blocks, or are reserved for some, of all "
        "namespaces together. Capacities are in the legend."
    )
    return Chart("How full the tiers are", caption, figure)


def _colour(name: str) -> str:
    return COLOURS.get(name, _OTHER)
