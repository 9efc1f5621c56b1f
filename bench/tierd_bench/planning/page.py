"""A plan's page: one HTML file with charts and tables, which needs no network."""

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Final

from plotly.offline import get_plotlyjs

from tierd.core.units import format_bytes
from tierd_bench.planning.charts import make_charts
from tierd_bench.planning.report import Report
from tierd_bench.planning.sections import (
    Section,
    break_even_words,
    percent,
    seconds,
    sections,
    terabytes,
    years,
)
from tierd_bench.replay.charts import Chart

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")


def render_page(report: Report) -> str:
    """Return the page of a plan."""
    charts = make_charts(report)
    title = f"Plan for {report.kv.model}"
    parts = {
        "title": escape(f"tierd: {title}"),
        "plotly": get_plotlyjs(),
        "heading": escape(title),
        "subtitle": escape(_subtitle(report)),
        "tiles": "".join(_tiles(report)),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in (_WHAT, *report.notes)),
        "charts": "\n".join(_chart(place, chart) for place, chart in enumerate(charts)),
        "tables": "\n".join(_table(section) for section in sections(report)),
        "figures": "[" + ",".join(_figure_json(chart) for chart in charts) + "]",
        "footer": escape(f"Made by tierd {report.version}. Computed or simulated, not measured."),
    }
    # The page of the simulated cluster has the same parts, and tables as wide as these.
    page = (files("tierd_bench.cluster") / "page.html").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: parts[place[1]], page)


_WHAT: Final = (
    "Computed figures follow from sizes and rates, simulated ones from the trace besides; none is "
    "measured. The last table says what all of it rests on."
)


def _subtitle(report: Report) -> str:
    kv = report.kv
    ranks = f" · {kv.tensor_parallel} ranks" if kv.tensor_parallel > 1 else ""
    trace = "" if report.workload is None else f" · {report.workload.trace.name}"
    return f"KV in {kv.dtype}, blocks of {kv.block_tokens} tokens{ranks}{trace}"


def _tiles(report: Report) -> Iterator[str]:
    kv = report.kv
    block = f"{format_bytes(kv.block_bytes)} a block of {kv.block_tokens}"
    yield _tile("KV a token", format_bytes(kv.token_bytes), f"{block}, computed")
    for one in report.break_evens:
        rate = f"at {one.bytes_per_s / 1e9:.3g} GB/s, computed"
        yield _tile(f"Loading from {one.tier} wins", break_even_words(one), rate)
    if report.workload is None:
        return
    work = report.workload
    best = f"{percent(work.optimum_share)} of the best possible, simulated"
    yield _tile("Hit rate", percent(work.hit_rate), best)
    none, *_, last = work.ttft
    against = f"without a cache {seconds(none.mean_s)}, simulated"
    yield _tile("Time to first token, mean", seconds(last.mean_s), against)
    if work.lifetime is not None:
        written = f"{terabytes(work.lifetime.bytes_per_day)} a day, simulated"
        yield _tile("Disk lives", years(work.lifetime.years), written)


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


def _table(section: Section) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in section.heads)
    top = f"<tr>{top}</tr>" if any(section.heads) else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in section.rows
    )
    about = f'<p class="caption">{escape(section.about)}</p>' if section.about else ""
    return (
        f'<section class="card"><h2>{escape(section.title)} ({section.kind})</h2>{about}'
        f'<div class="wide"><table>{top}{body}</table></div></section>'
    )
