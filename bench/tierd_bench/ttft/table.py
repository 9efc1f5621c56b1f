"""Times to first token as tables for the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd_bench.bench.rows import Row
from tierd_bench.ttft.report import LESS, TtftReport, alike, cell
from tierd_bench.ttft.rounds import Scene


def render_table(report: TtftReport) -> RenderableType:
    """Return the medians with their ratios to a local hit, and every budget."""
    prompts = [scene for scene in report.scenes if not scene.turn]
    turns = [scene for scene in report.scenes if scene.turn]
    machine = report.machine
    where = f"{machine.processor}, {machine.cores} cores, load {report.load:.2f} before"
    parts: list[RenderableType] = [Text(f"{report.model} on {report.engine}; {where}", "dim")]
    if prompts:
        parts.append(_times("Time to first token in ms, and over a local hit", report, prompts))
    if turns:
        parts.append(_times("The same in conversations, by turn", report, turns))
    parts.append(Text(f"{LESS} not every time as much was reused as by the local hit", "dim"))
    parts.extend(_budget(row) for row in report.rows() if row.budget is not None)
    return Group(*parts)


def _times(title: str, report: TtftReport, scenes: Sequence[Scene]) -> RenderableType:
    table = Table(title=title, title_justify="left")
    table.add_column("KV from", no_wrap=True)
    for scene in scenes:
        table.add_column(f"{scene.name}\n{scene.tokens:,}", justify="right")
    said = []
    for way in report.ways:
        if found := [sample for scene in scenes for sample in report.of(scene, way)]:
            table.add_row(way, *(cell(report, scene, way) for scene in scenes))
            said.append(f"{way}: {alike(found)}")
    return Group(table, Text(f"Answers beside the local hit's: {'; '.join(said)}.", "dim"))


def _budget(row: Row) -> Text:
    said = f"{row.name}: {row.ratio:.2f} of {row.figures.limit_what}, budget {row.budget}"
    return Text(said if row.met else f"{said}, missed", "green" if row.met else "bold red")
