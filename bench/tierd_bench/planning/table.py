"""A plan as tables for the terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd_bench.planning.report import Report
from tierd_bench.planning.sections import Section, sections


def render_report(report: Report) -> RenderableType:
    """Return the plan for a console."""
    shown: list[RenderableType] = []
    for section in sections(report):
        shown += [*_section(section), ""]
    notes = [Text(f"note: {note}", style="dim") for note in report.notes]
    return Group(*shown, *notes)


def _section(section: Section) -> Iterator[RenderableType]:
    yield Text.assemble((section.title, "bold"), (f"  ({section.kind})", "dim"))
    if section.about:
        yield Text(section.about, style="dim")
    table = Table(show_header=any(section.heads))
    words = section.kind == "given or assumed"
    for place, head in enumerate(section.heads):
        table.add_column(head, justify="left" if words or not place else "right")
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    yield table
