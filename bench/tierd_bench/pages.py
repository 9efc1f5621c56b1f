"""The frame of a page with charts: one HTML file, in light and dark, which needs no network.

What a page says is left to those who make reports. All text is escaped here, and only here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any, Final, Literal

from plotly.offline import get_plotlyjs

PALETTE: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Colours that the colour-blind tell apart. Source: Okabe and Ito, "Color universal design"."""

GREY: Final = "#7b8794"
"""Of bounds and marks, visible on light and on dark."""

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Tile:
    """One large figure at the top. `kind` colours it."""

    name: str
    value: str
    about: str
    kind: Literal["", "good", "bad"] = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A plotly figure with what is written above and below it.

    `tag` says beside the title what the figures are, such as "simulated".
    """

    title: str
    caption: str
    figure: Any
    tag: str = ""
    width: Literal["half", "full"] = "half"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title. The first cell of a row names it; `colours` of those names show too."""

    title: str
    rows: Sequence[Sequence[str]]
    heads: Sequence[str] = ()
    about: str = ""
    kind: Literal["words", "numbers"] = "words"
    colours: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page shows. `tables_in` says whether tables are narrow enough for two columns."""

    heading: str
    subtitle: str
    tiles: Iterable[Tile]
    notes: Iterable[str]
    charts: Sequence[Chart]
    tables: Iterable[Table]
    footer: str
    tables_in: Literal["rows", "columns"] = "rows"


def render(page: Page) -> str:
    """Return `page` as HTML."""
    parts = {
        "heading": escape(page.heading),
        "plotly": get_plotlyjs(),
        "subtitle": escape(page.subtitle),
        "tiles": "".join(map(_tile, page.tiles)),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in page.notes),
        "charts": "\n".join(_chart(place, chart) for place, chart in enumerate(page.charts)),
        "flow": page.tables_in,
        "tables": "\n".join(map(_table, page.tables)),
        "figures": "[" + ",".join(_figure_json(chart) for chart in page.charts) + "]",
        "footer": escape(page.footer),
    }
    frame = (files("tierd_bench") / "page.html").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: parts[place[1]], frame)


def _tile(tile: Tile) -> str:
    return (
        f'<div class="card tile"><div class="name">{escape(tile.name)}</div>'
        f'<div class="value {tile.kind}">{escape(tile.value)}</div>'
        f'<div class="about">{escape(tile.about)}</div></div>'
    )


def _chart(place: int, chart: Chart) -> str:
    tag = f' <span class="tag">{escape(chart.tag)}</span>' if chart.tag else ""
    return (
        f'<figure class="card {chart.width}"><h2>{escape(chart.title)}{tag}</h2>'
        f'<div class="chart" id="chart-{place}"></div>'
        f'<figcaption class="caption">{escape(chart.caption)}</figcaption></figure>'
    )


def _figure_json(chart: Chart) -> str:
    chart.figure.update_layout(template="none")
    # Axes that are part of the layout are those that the page colours.
    chart.figure.update_xaxes(automargin=True)
    chart.figure.update_yaxes(automargin=True)
    # Plotly writes "<" so that nothing in here looks like the end of the script.
    return str(chart.figure.to_json())


def _table(table: Table) -> str:
    about = f'<p class="caption">{escape(table.about)}</p>' if table.about else ""
    top = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    body = "".join(_row(row, table.colours) for row in table.rows)
    return (
        f'<section class="card {table.kind}"><h2>{escape(table.title)}</h2>{about}'
        f'<div class="wide"><table>{f"<tr>{top}</tr>" if top else ""}{body}</table></div></section>'
    )


def _row(row: Sequence[str], colours: Mapping[str, str]) -> str:
    name, *cells = row
    colour = colours.get(name)
    mark = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
    others = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr><th>{mark}{escape(name)}</th>{others}</tr>"
