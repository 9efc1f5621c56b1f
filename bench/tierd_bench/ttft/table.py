"""Times to first token as tables for the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd_bench.bench.rows import Row
from tierd_bench.ttft.report import ALIKE_MEANS, LESS, LESS_MEANS, TtftReport, alike, cell
from tierd_bench.ttft.rounds import Case


def render_table(report: TtftReport) -> RenderableType:
    """Return the medians with their ratios to a local hit, and every budget."""
    machine = report.machine
    where = f"{machine.processor}, {machine.cores} cores, load {report.load:.2f} before"
    parts: list[RenderableType] = [Text(f"{report.model} on {report.engine}; {where}", "dim")]
    if report.prompts:
        title = "Time to first token in ms, and as a multiple of a local hit"
        parts.append(_times(title, report, report.prompts))
    if report.turns:
        parts.append(_times("The same in conversations, by turn", report, report.turns))
    parts.extend(_budget(row) for row in report.rows() if row.budget is not None)
    return Group(*parts)


def _times(title: str, report: TtftReport, cases: Sequence[Case]) -> RenderableType:
    table = Table(title=title, title_justify="left")
    table.add_column("KV from", no_wrap=True)
    for case in cases:
        table.add_column(f"{case.name}\n{case.tokens:,}", justify="right")
    said = []
    cells = []
    for source in report.sources:
        if found := [sample for case in cases for sample in report.of(case, source)]:
            row = [cell(report, case, source) for case in cases]
            table.add_row(source, *row)
            cells += row
            said.append(f"{source}: {alike(found)}")
    below = [Text(f"{'; '.join(said)}. {ALIKE_MEANS}", "dim")]
    if any(LESS in each for each in cells):
        below.append(Text(LESS_MEANS, "dim"))
    return Group(table, *below)


def _budget(row: Row) -> Text:
    said = f"{row.name}: {row.ratio:.2f} of {row.figures.limit_what}, budget {row.budget}"
    return Text(said if row.met else f"{said}, missed", "green" if row.met else "bold red")
