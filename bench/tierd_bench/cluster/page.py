"""A report's page: one HTML file with charts and tables, which needs no network."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from math import inf
from typing import Final

from plotly.offline import get_plotlyjs

from tierd_bench.cluster.assumptions import ASSUMPTIONS
from tierd_bench.cluster.charts import Chart, make_charts
from tierd_bench.cluster.report import NOTE, Report
from tierd_bench.cluster.studies import Study
from tierd_bench.cluster.systems import SYSTEMS
from tierd_bench.cluster.table import CLAIM_HEADS, cell, claim_cells, words

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")


def render_page(report: Report) -> str:
    """Return the page of a report."""
    charts = make_charts(list(report.studies))
    title = "Simulated: a cluster with dual-path loading"
    parts = {
        "title": escape(title),
        "plotly": get_plotlyjs(),
        "heading": escape(title),
        "subtitle": escape(_subtitle(report)),
        "tiles": "".join(_tiles(report)),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in _notes()),
        "charts": "\n".join(_chart(place, chart) for place, chart in enumerate(charts)),
        "tables": "\n".join(_tables(report)),
        "figures": "[" + ",".join(_figure_json(chart) for chart in charts) + "]",
        "footer": escape(f"Made by tierd {report.version}. Simulated, not measured."),
    }
    page = (files("tierd_bench.cluster") / "page.html").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: parts[place[1]], page)


def _notes() -> Iterable[str]:
    yield NOTE
    yield "Systems: " + "; ".join(f"{one.name}: {one.about}" for one in SYSTEMS.values()) + "."


def _subtitle(report: Report) -> str:
    chosen = (f"{name.replace('_', ' ')} {value}" for name, value in report.config.items() if value)
    return " · ".join((*chosen, f"simulated in {report.wall_s:.0f} s"))


def _tiles(report: Report) -> Iterable[str]:
    claims = [claim for study in report.studies for claim in study.claims if claim.tolerance < inf]
    held = sum(claim.holds for claim in claims)
    if claims:
        yield _tile("Claims that hold", f"{held} of {len(claims)}", "within their tolerance")
    for study in report.studies:
        for claim in study.claims:
            if claim.about in _TILES:
                wanted = f"{claim.source}: {claim.wanted:.4g} {claim.unit}"
                yield _tile(_TILES[claim.about], f"{claim.simulated:.3g} {claim.unit}", wanted)


_TILES: Final = {
    "gain of DualPath at 1P1D": "DualPath over Basic, 1P1D",
    "JCT, dualpath against basic": "JCT, all of DualPath",
    "storage NIC max/mean, two-paths": "NIC balance, round robin",
    "storage NIC max/mean, dualpath": "NIC balance, scheduler",
}


def _tile(name: str, value: str, about: str) -> str:
    return (
        f'<div class="card tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div>'
        f'<div class="about">{escape(about)}</div></div>'
    )


def _chart(place: int, chart: Chart) -> str:
    return (
        f'<figure class="card"><h2>{escape(chart.title)}</h2>'
        f'<div class="chart" id="chart-{place}"></div>'
        f'<figcaption class="caption">{escape(chart.caption)}</figcaption></figure>'
    )


def _figure_json(chart: Chart) -> str:
    chart.figure.update_layout(template="none")
    # Nothing in a script may look like its end.
    return str(chart.figure.to_json()).replace("</", "<\\/")


def _tables(report: Report) -> Iterable[str]:
    for study in report.studies:
        if study.claims:
            rows = [claim_cells(claim) for claim in study.claims]
            yield _table(f"{study.title}: held against", CLAIM_HEADS, rows)
        yield _study(study)
    rows = [(one.name, f"{one.value:.4g} {one.unit}", one.why) for one in ASSUMPTIONS]
    yield _table("What the paper does not give", ("constant", "value", "where from"), rows)


def _study(study: Study) -> str:
    heads = [words(name) for name in study.rows[0]]
    rows = [tuple(map(cell, row.values())) for row in study.rows]
    return _table(f"{study.title} (simulated)", heads, rows, study.about)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], about: str = "") -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    said = f'<p class="caption">{escape(about)}</p>' if about else ""
    return (
        f'<section class="card"><h2>{escape(title)}</h2>{said}<div class="wide">'
        f"<table><tr>{top}</tr>{body}</table></div></section>"
    )
