"""A benchmark as one small HTML page: every row beside its limit, with its budget marked."""

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from statistics import median
from string import Template
from typing import Final

from tierd_bench.bench.rows import Bound, BudgetOf, Row
from tierd_bench.bench.run import BenchReport

_WIDTH: Final = 420
_LINE: Final = 18
_BAR: Final = 10
_ROOM: Final = 1.08
"""The scale ends so far beyond the longest of what is drawn."""

_KINDS: Final = {True: "met", False: "missed", None: "free"}


def render_page(report: BenchReport) -> str:
    """Return the page of a benchmark. It needs no network, and no script."""
    machine = report.machine
    budgets = [row.met for row in report.rows if row.met is not None]
    page = (files("tierd_bench.bench") / "page.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        summary=f"{sum(budgets)} of {len(budgets)} budgets are met.",
        machine=escape(
            f"{machine.processor}, {machine.cores} cores, {machine.system}, "
            f"load {report.load:.2f} before; commit {report.commit or 'unknown'}, {report.date}"
        ),
        rows="\n".join(map(_row, report.rows)),
    )


def _row(row: Row) -> str:
    kind = _KINDS[row.met]
    budget = f"budget {row.budget}" if row.budget else "no budget"
    return (
        f'<section><h2>{escape(row.name)}</h2><p class="ratio {kind}">{row.ratio:.2f}'
        f"<small>{escape(budget)}</small></p>{_bars(row, kind)}"
        f"<p>Limit: {escape(row.figures.limit_what)}<br>{escape(row.figures.note)}</p></section>"
    )


def _bars(row: Row, kind: str) -> str:
    """Return the medians as bars in one scale, their runs as dots, the budget as a line."""
    figures = row.figures
    lines = {"tierd": figures.values, "limit": figures.limits, **figures.others}
    bound = _bound(row)
    runs = [value for values in lines.values() for value in values]
    scale = _WIDTH / (_ROOM * max(*runs, bound or 0.0))
    height = _LINE * len(lines)
    parts = [f'<svg viewBox="-90 0 {_WIDTH + 200} {height}" role="img">']
    for place, (name, values) in enumerate(lines.items()):
        style = "other" if place else kind
        parts.extend(_bar(name, values, figures.unit, place * _LINE, scale, style))
    if bound is not None and row.budget is not None:
        x = bound * scale
        side = "least" if row.budget.bound is Bound.LEAST else "most"
        parts.append(f'<line class="budget" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_LINE}">')
        parts.append(f"<title>at {side} {bound:.3g} {escape(figures.unit)}</title></line>")
    return "".join([*parts, "</svg>"])


def _bar(
    name: str, values: tuple[float, ...], unit: str, y: int, scale: float, style: str
) -> Iterator[str]:
    middle, width = y + _LINE / 2, median(values) * scale
    yield f'<text class="name" x="-8" y="{middle + 4}">{escape(name)}</text>'
    yield f'<rect class="{style}" y="{middle - _BAR / 2}" width="{width:.1f}" height="{_BAR}"/>'
    for value in values:
        yield f'<circle cx="{value * scale:.1f}" cy="{middle}" r="1.5"/>'
    label = escape(f"{median(values):.3g} {unit}")
    yield f'<text x="{_WIDTH + 8}" y="{middle + 4}">{label}</text>'


def _bound(row: Row) -> float | None:
    """Return the budget in the row's unit."""
    if row.budget is None:
        return None
    return row.budget.amount * (row.limit if row.budget.of is BudgetOf.RATIO else 1)
