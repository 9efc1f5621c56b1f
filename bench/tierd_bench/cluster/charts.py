"""The charts of a report: each study's figure beside the paper's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go

from tierd_bench.cluster import paper
from tierd_bench.cluster.studies import Study
from tierd_bench.pages import Chart

_BASIC: Final = "#e8912d"
_DUAL: Final = "#14a3a3"
_PAPER: Final = "#8b5cf6"
_OTHER: Final = "#7b8794"
_LABEL_STEP: Final = 1.4
_COLOURS: Final = {
    "basic": _BASIC,
    "layerwise": "#d6b14a",
    "two-paths": "#3b82f6",
    "dualpath": _DUAL,
    "oracle": _OTHER,
}


def make_charts(studies: list[Study]) -> list[Chart]:
    """Return the charts of the studies that have some."""
    return [draw(study) for study in studies for draw in _CHARTS.get(study.name, ())]


def _bars(names: list[str], values: Sequence[float | None], name: str, colour: str) -> Any:
    shown = ["" if value is None else f"{value:.4g}" for value in values]
    return go.Bar(
        x=names,
        y=values,
        name=name,
        marker={"color": colour},
        text=shown,
        textposition="outside",
        cliponaxis=False,
        hovertemplate=f"{name} %{{x}}: %{{y:.4g}}<extra></extra>",
    )


def _ratio(study: Study) -> Chart:
    known = [row for row in study.rows if row["paper"] is not None]
    names = [f"{row['model']}<br>{row['context'] // 1024}K" for row in known]
    figure = go.Figure(
        [
            _bars(names, [row["gb_per_pflop"] for row in known], "formula", _DUAL),
            _bars(names, [row["paper"] for row in known], "paper, Table 1", _PAPER),
        ]
    )
    figure.update_xaxes(tickangle=0, tickfont={"size": 11})
    figure.update_yaxes(
        title="GB to load a PFLOP (logarithmic)", type="log", tickvals=[40, 60, 100, 150, 250]
    )
    return Chart(
        "KV to load for each PFLOP to compute",
        "With 429 tokens appended to a context of 16K and of 64K. A formula, not a simulation. "
        "The higher, the more storage decides how fast agents are.",
        figure,
    )


def _nic_law(study: Study) -> Chart:
    figure = go.Figure()
    most = max(row["usable_nics"] for row in study.rows) + 0.4
    figure.add_scatter(
        x=[0, most],
        y=[0, most],
        mode="lines",
        name="ideal: all that can be used (paper)",
        line={"color": _PAPER, "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )
    for system, symbol in (("basic", "circle"), ("dualpath", "diamond")):
        rows = [row for row in study.rows if row["system"] == system]
        figure.add_scatter(
            x=[row["usable_nics"] for row in rows],
            y=[row["nics_used"] for row in rows],
            text=_shared_labels(rows),
            mode="markers+text",
            textposition="top left" if system == "dualpath" else "bottom right",
            name=f"{system}, simulated",
            marker={"size": 12, "symbol": symbol, "color": _COLOURS[system]},
            hovertemplate=f"{system} %{{text}}: %{{y:.3f}} NICs<extra></extra>",
        )
    figure.update_xaxes(title="storage NICs that the system can read with", range=[0, most])
    figure.update_yaxes(title="storage NICs' worth of reading", range=[0, most])
    return Chart(
        "Throughput follows the storage NICs that can be used",
        "Tokens read a second in the steady part, over what one storage NIC reads. P and D are "
        "nodes. Points that share a place are the paper's equivalences.",
        figure,
    )


def _shared_labels(rows: list[dict[str, Any]]) -> list[str]:
    """Return one label for all points that share a place, at the first of them."""
    shapes: dict[int, list[str]] = {}
    for row in rows:
        shapes.setdefault(row["usable_nics"], []).append(row["shape"])
    return [", ".join(shapes.pop(row["usable_nics"], ())) for row in rows]


def _free_range(study: Study) -> Chart:
    rows = sorted(study.rows, key=lambda row: float(row["p_over_d"]))
    at = [row["p_over_d"] for row in rows]
    figure = go.Figure()
    figure.add_scatter(
        x=at,
        y=[100 * row["predicted"] for row in rows],
        name="formulas (paper, section on bottlenecks)",
        mode="lines",
        line={"color": _PAPER, "dash": "dot", "width": 2},
    )
    figure.add_scatter(
        x=at,
        y=[100 * row["nics_busy"] for row in rows],
        text=[f"{row['shape']}, busiest: {row['busiest']}" for row in rows],
        name="simulated",
        mode="lines+markers",
        line={"color": _DUAL, "width": 2.5},
        hovertemplate="%{text}: %{y:.1f} %<extra></extra>",
    )
    for edge in paper.FREE_RANGE:
        figure.add_vline(x=edge, line={"color": _OTHER, "dash": "dash", "width": 1})
    ticks: dict[float, str] = {}
    for row in rows:
        # No two labels on top of each other.
        if not ticks or row["p_over_d"] > _LABEL_STEP * list(ticks)[-1]:
            ticks[row["p_over_d"]] = row["shape"]
    figure.update_xaxes(
        title="prefill nodes over decode nodes (logarithmic)",
        type="log",
        tickvals=list(ticks),
        ticktext=list(ticks.values()),
    )
    figure.update_yaxes(title="storage NICs busy (%)", range=[0, 108])
    return Chart(
        "P/D without bottleneck",
        "Reads only. Between the dashed lines, 1/7 and 7/2 of the paper's node, nothing but the "
        "storage NICs should limit; to the left the compute NICs of prefill do, to the right "
        "those of decode. At the edges themselves bursts cost something.",
        figure,
    )


def _ablation(study: Study) -> Chart:
    rows = [row for row in study.rows if row["system"] != "basic"]
    names = [row["system"] for row in rows]
    figure = go.Figure(
        [
            _bars(names, [row["against_basic"] for row in rows], "simulated", _DUAL),
            _bars(names, [row["paper"] for row in rows], "paper", _PAPER),
        ]
    )
    figure.update_yaxes(title="job completion time against Basic (%)", range=[-66, 0])
    return Chart(
        "What each step brings",
        "Layerwise prefill, then both read paths in turn, then the paper's scheduler, which is "
        "all of DualPath; Oracle has I/O for free. The first and the last of the paper's values "
        "were used to fit two constants; the middle one was in sight when assumptions were made.",
        figure,
    )


def _balance(study: Study) -> Chart:
    rows = [row for row in study.rows if row["system"] in ("two-paths", "dualpath")]
    names = [
        "storage NICs,<br>round robin",
        "storage NICs,<br>scheduler",
        "attention,<br>scheduler",
    ]
    simulated = [
        *(row["nic_max_over_mean"] for row in rows),
        rows[-1]["attention_max_over_mean"],
    ]
    wanted = [*paper.NIC_IMBALANCE.values(), paper.ATTENTION_IMBALANCE]
    figure = go.Figure(
        [_bars(names, simulated, "simulated", _DUAL), _bars(names, wanted, "paper", _PAPER)]
    )
    figure.update_yaxes(title="busiest over mean", range=[0.9, 1.75])
    return Chart(
        "How even the load is",
        "Traffic of the busiest storage NIC over the mean one's, in windows in which one can read "
        "3 TB, and the longest attention of a lockstep step over the mean. 1 is even.",
        figure,
    )


def _stages(study: Study) -> Chart:
    names = [row["system"] for row in study.rows]
    figure = go.Figure(
        [
            go.Bar(
                x=names,
                y=[row[f"{stage}_s"] for row in study.rows],
                name=stage,
                marker={"color": colour},
                hovertemplate=f"{stage} %{{y:.2f}} s<extra>%{{x}}</extra>",
            )
            for stage, colour in (("read", _BASIC), ("prefill", _DUAL), ("decode", _PAPER))
        ]
    )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="mean time of a request (s)")
    return Chart(
        "Where a request's time goes",
        "Simulated. Reading includes the wait for the storage NIC, prefill the wait for a step, "
        "decode the wait for memory.",
        figure,
    )


def _online(study: Study) -> Chart:
    figure = go.Figure()
    for system in ("basic", "dualpath"):
        rows = [row for row in study.rows if row["system"] == system]
        figure.add_scatter(
            x=[row["agents_per_s"] for row in rows],
            y=[row["ttft_s"] for row in rows],
            name=f"{system}, simulated",
            mode="lines+markers",
            line={"color": _COLOURS[system], "width": 2.5},
            hovertemplate=f"{system} %{{x:.3g}} agents/s: %{{y:.2f}} s<extra></extra>",
        )
    figure.add_hline(y=paper.SLO_TTFT_S, line={"color": _PAPER, "dash": "dot", "width": 1.5})
    most = max(row["agents_per_s"] for row in study.rows)
    figure.update_xaxes(title="agents arriving a second", range=[0, 1.08 * most])
    figure.update_yaxes(title="mean TTFT (s)", rangemode="tozero")
    return Chart(
        "Time to the first token against arrivals",
        "Poisson arrivals; a line ends with the first rate that breaks the SLO. The dotted line "
        "is the paper's limit of 4 s.",
        figure,
    )


def _beyond(study: Study) -> Chart:
    rows = study.rows[::-1]
    figure = go.Figure(
        go.Bar(
            y=[row["what"] for row in rows],
            x=[row["ttft_s"] for row in rows],
            orientation="h",
            marker={"color": _DUAL},
            text=[f"{row['ttft_s']:.3g} s, JCT {row['jct_change']:+.1f} %" for row in rows],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.3f} s<extra></extra>",
            showlegend=False,
        )
    )
    longest = max(row["ttft_s"] for row in rows)
    figure.update_xaxes(title="mean TTFT (s)", range=[0, 2.1 * longest])
    figure.update_yaxes(tickfont={"size": 11})
    return Chart(
        "Past the paper",
        "Simulated; the paper has no such figures. Mean time to the first token, and the job "
        "completion time against DualPath with as many agents and tools as slow.",
        figure,
    )


_CHARTS: Final[Mapping[str, tuple[Callable[[Study], Chart], ...]]] = {
    "table1": (_ratio,),
    "equivalences": (_nic_law,),
    "range": (_free_range,),
    "ablation": (_ablation, _balance, _stages),
    "online": (_online,),
    "beyond": (_beyond,),
}
