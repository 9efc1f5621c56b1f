"""Studies as tables for the terminal."""

from collections.abc import Iterable
from math import inf
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd_bench.cluster.report import NOTE, Report
from tierd_bench.cluster.studies import Claim, Study


def render_report(report: Report) -> RenderableType:
    """Return all studies for a console."""
    shown: list[RenderableType] = []
    for study in report.studies:
        shown += [*_study(study), ""]
    return Group(*shown, Text(NOTE, style="dim"))


def words(column: str) -> str:
    """Return a column's name as it is read: units in brackets."""
    for end, unit in (("_s", "s"), ("_ms", "ms"), ("_gb", "GB")):
        if column.endswith(end) and not column.startswith("agents_per"):
            return f"{column.removesuffix(end).replace('_', ' ')} ({unit})"
    return column.replace("_", " ")


def cell(value: Any) -> str:
    """Return a value as it is read."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.5g}" if isinstance(value, float) else str(value)


def claim_cells(claim: Claim) -> tuple[str, ...]:
    """Return a claim's columns: about, simulated, wanted, whose, tolerance, whether it holds."""
    within = "-" if claim.tolerance == inf else f"±{claim.tolerance:.3g}"
    verdict = "shown only" if claim.tolerance == inf else "holds" if claim.holds else "MISSED"
    return (
        claim.about,
        f"{claim.simulated:.4g} {claim.unit}".strip(),
        f"{claim.wanted:.4g} {claim.unit}".strip(),
        claim.source,
        within,
        verdict,
    )


_COLUMNS_MAX = 8
"""What fits in a terminal; a file has all columns."""

CLAIM_HEADS = ("claim", "simulated", "should be", "according to", "within", "")


def _study(study: Study) -> Iterable[RenderableType]:
    yield Text(f"{study.title} (simulated)", style="bold")
    yield Text(study.about, style="dim")
    yield _rows(study)
    if study.claims:
        yield _claims(study.claims)


def _rows(study: Study) -> RenderableType:
    if len(study.rows) == 1:
        table = Table(show_header=False)
        for name, value in study.rows[0].items():
            table.add_row(words(name), cell(value))
        return table
    table = Table()
    names = list(study.rows[0])[:_COLUMNS_MAX]
    for place, name in enumerate(names):
        longest = max(len(cell(row[name])) for row in study.rows)
        # Heads may wrap, figures may not.
        table.add_column(
            words(name),
            justify="right" if place else "left",
            min_width=longest if place else None,
        )
    for row in study.rows:
        table.add_row(*(cell(row[name]) for name in names))
    return table


def _claims(claims: Iterable[Claim]) -> Table:
    table = Table()
    for place, head in enumerate(CLAIM_HEADS):
        table.add_column(head, justify="right" if place in (1, 2, 4) else "left")
    for claim in claims:
        *shown, verdict = claim_cells(claim)
        style = {"holds": "green", "MISSED": "bold red"}.get(verdict, "dim")
        table.add_row(*shown, f"[{style}]{verdict}[/]")
    return table
