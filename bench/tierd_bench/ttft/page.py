"""Times to first token as a page of charts."""

from collections.abc import Sequence
from importlib.metadata import version
from statistics import median
from typing import Any, Final

import plotly.graph_objects as go

from tierd_bench.pages import GREY, PALETTE, Chart, Page, Table, Tile, render
from tierd_bench.replay.charts import COLOURS
from tierd_bench.ttft.report import (
    ALIKE_MEANS,
    LESS,
    LESS_MEANS,
    TtftReport,
    alike,
    cell,
    median_ms,
    ratio_to_local,
)
from tierd_bench.ttft.rounds import FIRST, LOCAL, RECOMPUTE, Case

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
_TICKS_MS: Final = [mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5)]
_NOTES: Final = (
    "Medians of rounds in which all engines take turns on one machine. Compare ratios of one run.",
    "A local hit is the engine's own cache: the least a store can come to.",
    "On disk: blocks are in no memory, and files are read past the page cache.",
    "“First” is a prompt that is new: it is computed, and kept meanwhile.",
)


def render_page(reports: Sequence[TtftReport]) -> str:
    """Return the page of one run, with a report an engine. It needs no network."""
    one = reports[0]
    engines = " and ".join(report.engine for report in reports)
    machine = one.machine
    page = Page(
        heading="Time to first token",
        subtitle=f"{one.model} on {engines}; {machine.processor}, {machine.cores} cores, "
        f"load {one.load:.2f} before; commit {one.commit or 'unknown'}, {one.date}",
        tiles=[tile for report in reports for tile in _tiles(report)],
        notes=_NOTES,
        charts=[chart for report in reports for chart in _charts(report)],
        tables=[table for report in reports for table in _tables(report)],
        footer=f"Made by tierd {version('tierd')}. Measured.",
    )
    return render(page)


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
        name = f"{report.engine}, tierd's worst hit"
        about = "of the time to compute all of it; budget <= 1"
        tiles.append(Tile(name, f"{worst:.2f}", about, "good" if worst <= 1 else "bad"))
    return tiles


def _charts(report: TtftReport) -> list[Chart]:
    charts = []
    if report.prompts:
        charts += [_times(report, report.prompts), _ratios(report, report.prompts)]
    if report.turns:
        charts.append(_turns(report, report.turns))
    return charts


def _tables(report: TtftReport) -> list[Table]:
    titled = (("prompts", report.prompts), ("conversations", report.turns))
    return [_table(report, f"{report.engine}: {name}", cases) for name, cases in titled if cases]


def _times(report: TtftReport, cases: Sequence[Case]) -> Chart:
    figure = go.Figure()
    for source in _hits(report, cases):
        shown = [case for case in cases if report.of(case, source)]
        times = [median_ms(report.of(case, source)) for case in shown]
        _line(figure, source, [case.tokens for case in shown], times)
    if _BOUNDED in report.sources:
        _bound(figure, report, cases)
    _lengths(figure, cases)
    _milliseconds(figure)
    caption = (
        "Each prompt is asked once, so that it is kept, and then again. "
        "Grey is what computing all of it takes; dashed, a local hit and reading its KV as fast as "
        "fio reads the disk."
    )
    return Chart(f"{report.engine}, by length of the prompt", caption, figure, "measured")


def _bound(figure: Any, report: TtftReport, cases: Sequence[Case]) -> None:
    found = [report.of(case, _BOUNDED) for case in cases]
    figure.add_scatter(
        x=[case.tokens for case in cases],
        y=[
            median(each.local_seconds + each.disk_seconds for each in samples) * 1e3
            for samples in found
        ],
        name="local hit + disk",
        mode="lines",
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        hovertemplate="the disk's limit, %{x}: %{y:.0f} ms<extra></extra>",
    )


def _ratios(report: TtftReport, cases: Sequence[Case]) -> Chart:
    figure = go.Figure()
    for source in _hits(report, cases):
        shown = [case for case in cases if report.of(case, source)]
        ratios = [ratio_to_local(report.of(case, source)) for case in shown]
        _line(figure, source, [case.tokens for case in shown], ratios)
    _lengths(figure, cases)
    ticks = [0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100]
    figure.update_yaxes(title="times a local hit (logarithmic)", type="log", tickvals=ticks)
    caption = "The same as a multiple of a local hit, which was asked right after each."
    return Chart(f"{report.engine}, against a local hit", caption, figure, "measured")


def _turns(report: TtftReport, cases: Sequence[Case]) -> Chart:
    figure = go.Figure()
    for source in _hits(report, cases):
        shown = [case for case in cases if report.of(case, source)]
        times = [median_ms(report.of(case, source)) for case in shown]
        _line(figure, source, [case.turn for case in shown], times)
    figure.update_xaxes(title="turn", dtick=1)
    _milliseconds(figure)
    added = cases[1].tokens - cases[0].tokens if len(cases) > 1 else 0
    caption = (
        f"A conversation of {cases[0].tokens:,} tokens at first, which all compute, and {added:,} "
        "more each turn. Before each turn the engine loses its own cache, as if another one took "
        "over; only the local hit keeps it."
    )
    return Chart(f"{report.engine}, by turn of a conversation", caption, figure, "measured", "full")


def _lengths(figure: Any, cases: Sequence[Case]) -> None:
    figure.update_xaxes(
        title="prompt (tokens)",
        type="log",
        tickvals=[case.tokens for case in cases],
        ticktext=[case.name for case in cases],
    )


def _milliseconds(figure: Any) -> None:
    figure.update_yaxes(
        title="time to first token (ms, logarithmic)",
        type="log",
        tickvals=_TICKS_MS,
        ticktext=[f"{tick:,}" for tick in _TICKS_MS],
    )


def _line(figure: Any, source: str, x: list[int], y: list[float]) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        name=source,
        mode="lines+markers",
        line={"color": _colour(source), "width": 2.5, "dash": "dot" if _fades(source) else "solid"},
        hovertemplate=f"{source}, %{{x}}: %{{y:.3~g}}<extra></extra>",
    )


def _table(report: TtftReport, title: str, cases: Sequence[Case]) -> Table:
    rows = []
    for source in report.sources:
        found = [report.of(case, source) for case in cases]
        if any(found):
            cells = [cell(report, case, source) for case in cases]
            rows.append([source, *cells, alike([each for samples in found for each in samples])])
    heads = ["KV from", *(f"{case.name} ({case.tokens:,})" for case in cases), "answers"]
    less = LESS_MEANS if any(LESS in each for row in rows for each in row) else ""
    about = f"Medians in ms, and as a multiple of a local hit. {ALIKE_MEANS} {less}"
    colours = {source: _colour(source) for source in report.sources if not source.endswith(FIRST)}
    return Table(title, rows, heads, about, kind="numbers", colours=colours)


def _hits(report: TtftReport, cases: Sequence[Case]) -> list[str]:
    asked = {sample.source for sample in report.samples if sample.case in cases}
    return [source for source in report.sources if source in asked and not source.endswith(FIRST)]


def _colour(source: str) -> str:
    return _COLOURS.get(source) or _COLOURS.get(source.split(" ")[0], GREY)


def _fades(source: str) -> bool:
    """Say whether a source shares its colour with its store's host tier, to be told from it."""
    return source not in _COLOURS and source.endswith(" disk")
