"""A benchmark's rows as a table for the terminal."""

from string import ascii_lowercase

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd_bench.bench.rows import Row
from tierd_bench.bench.run import BenchReport

_STYLES = {True: "green", False: "bold red", None: ""}


def render_table(report: BenchReport) -> RenderableType:
    """Return the rows for a console: what is within its budget in green, what is not in red."""
    machine = report.machine
    where = f"{machine.processor}, {machine.cores} cores, load {report.load:.2f} before"
    whats = list(dict.fromkeys(row.figures.limit_what for row in report.rows))
    marks = dict(zip(whats, ascii_lowercase, strict=False))
    table = Table(title=f"Medians on {where}", title_justify="left", title_style="dim")
    table.add_column("row", no_wrap=True)
    for column in ("value", "limit", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("budget")
    for row in report.rows:
        style = _STYLES[row.met]
        table.add_row(
            Text(row.name, style),
            f"{row.value:.3g} {row.figures.unit}",
            f"{row.limit:.3g} {marks[row.figures.limit_what]}",
            Text(f"{row.ratio:.2f}", style),
            Text(_budget(row), style),
        )
    limits = (Text(f"{mark}  {what}", style="dim") for what, mark in marks.items())
    return Group(table, *limits)


def _budget(row: Row) -> str:
    if row.budget is None:
        return "-"
    return f"{row.budget}" if row.met else f"{row.budget}, missed"
