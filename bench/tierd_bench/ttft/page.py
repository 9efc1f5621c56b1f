"""Times to first token as a page of charts."""

from collections.abc import Sequence
from importlib.metadata import version
from statistics import median
from typing import Any, Final

import plotly.graph_objects as go

from tierd_bench.pages import GREY, PALETTE, Chart, Page, Table, Tile, render
from tierd_bench.replay.charts import COLOURS
from tierd_bench.ttft.report import (
    LESS,
    TtftReport,
    alike,
    cell,
    median_ms,
    ratio_to_local,
)
from tierd_bench.ttft.rounds import FIRST, LOCAL, RECOMPUTE, Scene

_BOUNDED: Final = "tierd disk"
_COLOURS: Final = {
    RECOMPUTE: GREY,
    LOCAL: "#8b5cf6",
    "tierd host": COLOURS["host"],
    "tierd disk": COLOURS["disk"],
    "offload": PALETTE[3],
    "lmcache": PALETTE[0],
    "tier": PALETTE[2],
}


def render_page(report: TtftReport) -> str:
    """Return the page. It needs no network."""
    prompts = [scene for scene in report.scenes if not scene.turn]
    turns = [scene for scene in report.scenes if scene.turn]
    charts = []
    if prompts:
        charts += [_times(report, prompts), _ratios(report, prompts)]
    if turns:
        charts.append(_turns(report, turns))
    machine = report.machine
    tables = [
        _table(report, title, scenes)
        for title, scenes in (("Prompts", prompts), ("Conversations", turns))
        if scenes
    ]
    page = Page(
        heading="Time to first token",
        subtitle=f"{report.model} on {report.engine}; {machine.processor}, {machine.cores} cores, "
        f"load {report.load:.2f} before; commit {report.commit or 'unknown'}, {report.date}",
        tiles=_tiles(report),
        notes=_NOTES,
        charts=charts,
        tables=tables,
        footer=f"Made by tierd {version('tierd')}. Measured.",
    )
    return render(page)


_TICKS_MS: Final = [mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5)]
_NOTES: Final = (
    "Medians of rounds in which all engines take turns on one machine. Compare ratios of one run.",
    "A local hit is the engine's own prefix cache: the least a store can come to.",
    "On disk: blocks are in no memory, and files are read past the page cache.",
    "“First” is a prompt that is new: it is computed, and kept meanwhile.",
)


def _tiles(report: TtftReport) -> list[Tile]:
    tiles = []
    for row in report.rows():
        if row.budget is not None and not row.name.endswith("against_recompute"):
            name = row.name.removeprefix("ttft_").replace("_", " ")
            about = f"of a local hit's time; budget {row.budget}"
            tiles.append(Tile(name, f"{row.ratio:.2f}", about, "good" if row.met else "bad"))
    slowest = [row for row in report.rows() if row.name.endswith("against_recompute")]
    if hits := [row.ratio for row in slowest if row.budget is not None]:
        worst = max(hits)
        about = "of computing all of it, a hit of tierd's at its worst; budget <= 1"
        tiles.append(Tile("worst hit", f"{worst:.2f}", about, "good" if worst <= 1 else "bad"))
    return tiles


def _times(report: TtftReport, scenes: Sequence[Scene]) -> Chart:
    figure = go.Figure()
    for way in _hits(report, scenes):
        shown = [scene for scene in scenes if report.of(scene, way)]
        times = [median_ms(report.of(scene, way)) for scene in shown]
        _line(figure, way, [scene.tokens for scene in shown], times)
    if _BOUNDED in report.ways:
        _bound(figure, report, scenes)
    figure.update_xaxes(
        title="prompt (tokens)",
        type="log",
        tickvals=[s.tokens for s in scenes],
        ticktext=[s.name for s in scenes],
    )
    figure.update_yaxes(
        title="time to first token (ms, logarithmic)",
        type="log",
        tickvals=_TICKS_MS,
        ticktext=[f"{tick:,}" for tick in _TICKS_MS],
    )
    caption = (
        "Each prompt is asked once, so that it is kept, and then again. "
        "Grey is what computing all of it takes; dashed, a local hit and reading its KV as fast as "
        "fio reads the disk."
    )
    return Chart("By length of the prompt", caption, figure, tag="measured")


def _bound(figure: Any, report: TtftReport, scenes: Sequence[Scene]) -> None:
    found = [report.of(scene, _BOUNDED) for scene in scenes]
    figure.add_scatter(
        x=[scene.tokens for scene in scenes],
        y=[
            median(each.local_seconds + each.disk_seconds for each in samples) * 1e3
            for samples in found
        ],
        name="local hit + disk",
        mode="lines",
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        hovertemplate="the disk's limit, %{x}: %{y:.0f} ms<extra></extra>",
    )


def _ratios(report: TtftReport, scenes: Sequence[Scene]) -> Chart:
    figure = go.Figure()
    for way in _hits(report, scenes):
        if way in (RECOMPUTE, LOCAL):
            continue
        shown = [scene for scene in scenes if report.of(scene, way)]
        figure.add_bar(
            x=[scene.name for scene in shown],
            y=[ratio_to_local(report.of(scene, way)) for scene in shown],
            name=way,
            marker={"color": _colour(way), "opacity": 0.5 if _fades(way) else 1},
            hovertemplate=f"{way}, %{{x}}: %{{y:.2f}}<extra></extra>",
        )
    figure.add_hline(y=1, line={"width": 1.5, "dash": "dot", "color": GREY})
    figure.update_xaxes(title="prompt (tokens)")
    figure.update_yaxes(title="times a local hit")
    caption = "The same as a multiple of a local hit, which was asked right after each."
    return Chart("Against a local hit", caption, figure, tag="measured")


def _turns(report: TtftReport, scenes: Sequence[Scene]) -> Chart:
    figure = go.Figure()
    for way in _hits(report, scenes):
        shown = [scene for scene in scenes if report.of(scene, way)]
        times = [median_ms(report.of(scene, way)) for scene in shown]
        _line(figure, way, [scene.turn for scene in shown], times)
    figure.update_xaxes(title="turn", dtick=1)
    figure.update_yaxes(title="time to first token (ms)", rangemode="tozero")
    added = scenes[1].tokens - scenes[0].tokens if len(scenes) > 1 else 0
    caption = (
        f"A conversation of {scenes[0].tokens:,} tokens at first and {added:,} more each turn. "
        "Before each turn the engine loses its own cache, as if another one took over; only the "
        "local hit keeps it."
    )
    return Chart("By turn of a conversation", caption, figure, tag="measured", width="full")


def _line(figure: Any, way: str, x: list[int], y: list[float]) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        name=way,
        mode="lines+markers",
        line={"color": _colour(way), "width": 2.5, "dash": "dot" if _fades(way) else "solid"},
        hovertemplate=f"{way}, %{{x}}: %{{y:.0f}} ms<extra></extra>",
    )


def _table(report: TtftReport, title: str, scenes: Sequence[Scene]) -> Table:
    rows = []
    for way in report.ways:
        found = [report.of(scene, way) for scene in scenes]
        if any(found):
            cells = [cell(report, scene, way) for scene in scenes]
            rows.append([way, *cells, alike([each for samples in found for each in samples])])
    heads = ["KV from", *(f"{scene.name} ({scene.tokens:,})" for scene in scenes), "answers"]
    about = (
        "Medians in ms, and times a local hit. Answers are compared with the local hit's. "
        f"{LESS} not every time as much was reused as by the local hit."
    )
    colours = {way: _colour(way) for way in report.ways if not way.endswith(FIRST)}
    return Table(title, rows, heads, about, kind="numbers", colours=colours)


def _hits(report: TtftReport, scenes: Sequence[Scene]) -> list[str]:
    asked = {sample.way for sample in report.samples if sample.scene in scenes}
    return [way for way in report.ways if way in asked and not way.endswith(FIRST)]


def _colour(way: str) -> str:
    return _COLOURS.get(way) or _COLOURS.get(way.split(" ")[0], GREY)


def _fades(way: str) -> bool:
    """Say whether a way has the colour of its store's nearest place, and is to be told from it."""
    return way not in _COLOURS and way.endswith(" disk")
