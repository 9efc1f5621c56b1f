"""A replay's page: one HTML file with charts and tables, which needs no network."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from plotly.offline import get_plotlyjs

from tierd.core.units import format_bytes
from tierd_bench.replay.charts import COLOURS, Chart, make_charts
from tierd_bench.replay.driver import Driven
from tierd_bench.replay.report import Latency, Report
from tierd_bench.replay.samples import Sampler

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_MISSED: Final = "#9aa6b6"


def render_page(report: Report, driven: Driven, sampler: Sampler) -> str:
    """Return the page of a replay."""
    charts = make_charts(report, driven, sampler)
    parts = {
        "title": escape(f"tierd replay of {report.trace}"),
        "plotly": get_plotlyjs(),
        "heading": escape(f"Replay of {report.trace}"),
        "subtitle": escape(_subtitle(report)),
        "tiles": "".join(_tiles(report)),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in report.notes),
        "charts": "\n".join(_chart(place, chart) for place, chart in enumerate(charts)),
        "tables": "\n".join(_tables(report)),
        "figures": "[" + ",".join(_figure_json(chart) for chart in charts) + "]",
        "footer": escape(f"Made by tierd {report.version}. Tokens are whole blocks of prompts."),
    }
    page = (files("tierd_bench.replay") / "page.html").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: parts[place[1]], page)


def _subtitle(report: Report) -> str:
    return (
        f"{report.requests:,} requests of {report.sessions:,} sessions in {report.wall_s:.1f} s · "
        f"blocks of {report.block_tokens} tokens, "
        f"{format_bytes(report.block_tokens * report.bytes_per_token)} each · "
        f"{report.unique_blocks:,} different blocks"
    )


def _tiles(report: Report) -> Iterable[str]:
    yield _tile(
        "Hit rate",
        f"{100 * report.hit_rate:.1f} %",
        f"infinite cache: {100 * report.infinite_cache_hit_rate:.1f} %",
    )
    served = sum(report.tokens_hit.values())
    yield _tile("Tokens served", _short(served), f"of {_short(report.tokens_asked)} asked")
    fetched = sum(size for name, size in report.bytes_by_route.items() if name != "publish")
    yield _tile("Fetched", format_bytes(fetched), f"{report.fetch_gb_per_s:.2f} GB/s, all users")
    yield _tile(
        "Fetch, median",
        f"{report.fetch_ms.p50:.3g} ms",
        f"p90 {report.fetch_ms.p90:.3g} ms · p99 {report.fetch_ms.p99:.3g} ms",
    )
    kind = "bad" if report.corrupt_blocks else "good"
    checked = served // report.block_tokens
    yield _tile("Corrupt blocks", f"{report.corrupt_blocks:,}", f"of {checked:,} compared", kind)


def _tile(name: str, value: str, about: str, kind: str = "") -> str:
    return (
        f'<div class="card tile"><div class="name">{escape(name)}</div>'
        f'<div class="value {kind}">{escape(value)}</div>'
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
    yield _table("Where the tokens came from", _token_rows(report), ("", "tokens", "share"))
    yield _table("In the daemon", _daemon_rows(report))
    yield _table("Times", _time_rows(report), ("ms", "p50", "p90", "p99", "max", "count"))
    yield _table("Checks", _check_rows(report))
    yield _table("Configuration", _pairs(report.config), kind="words")
    machine = report.machine
    rows = [
        ("processor", escape(f"{machine.processor}, {machine.cores} cores")),
        ("memory", format_bytes(machine.memory_bytes)),
        ("system", escape(f"{machine.system}, Python {machine.python}")),
    ]
    yield _table("Machine", rows, kind="words")


def _token_rows(report: Report) -> list[tuple[str, ...]]:
    counts = [*report.tokens_hit.items(), ("missed", report.tokens_missed)]
    rows = [
        (
            f'<span class="swatch" style="background:{COLOURS.get(name, _MISSED)}"></span>{name}',
            f"{count:,}",
            f"{100 * count / max(1, report.tokens_asked):.2f} %",
        )
        for name, count in counts
    ]
    return [*rows, ("asked", f"{report.tokens_asked:,}", "100 %")]


def _time_rows(report: Report) -> list[tuple[str, ...]]:
    rows = [("fetch", report.fetch_ms), ("publish", report.publish_ms)]
    if report.late_ms.count:
        rows.append(("late to start", report.late_ms))
    return [_latency_row(name, times) for name, times in rows]


def _latency_row(name: str, times: Latency) -> tuple[str, ...]:
    marks = (times.p50, times.p90, times.p99, times.max)
    return (name, *(f"{mark:.4g}" for mark in marks), f"{times.count:,}")


def _daemon_rows(report: Report) -> list[tuple[str, ...]]:
    evicted = [f"{name} {count:,}" for name, count in report.evictions_by_tier.items() if count]
    routes = [
        (f"{route.source} to {route.target}", format_bytes(route.bytes))
        for route in report.daemon_routes
        if route.bytes
    ]
    return [
        ("blocks published", f"{report.blocks_published:,}"),
        ("blocks declined to the end", f"{report.blocks_unpublished:,}"),
        ("blocks evicted", escape(", ".join(evicted) or "0")),
        ("written to disk", format_bytes(report.disk_bytes_written)),
        *((escape(name), size) for name, size in routes),
    ]


def _check_rows(report: Report) -> list[tuple[str, ...]]:
    rows = [
        ("corrupt blocks served", f"{report.corrupt_blocks:,}"),
        ("corrupt blocks that the daemon found itself", f"{report.daemon_corrupt_blocks:,}"),
        ("times the daemon went away", f"{report.daemon_gaps:,}"),
        *((f"fetches cut: {escape(why)}", f"{n:,}") for why, n in report.fetches_cut.items()),
        *((escape(what), f"{count:,}") for what, count in report.faults.items()),
    ]
    return [*rows, *(("corrupt", escape(page)) for page in report.corrupt_pages)]


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return what was given or chosen; options that were left out say nothing."""
    given = ((_label(name), value) for name, value in values.items())
    return [(escape(name), escape(_plain(value))) for name, value in given if value]


def _label(name: str) -> str:
    return name.removesuffix("_s").replace("_", " ") + (" (s)" if name.endswith("_s") else "")


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(
    title: str,
    rows: Sequence[tuple[str, ...]],
    heads: tuple[str, ...] = (),
    kind: str = "numbers",
) -> str:
    top = _row(heads, "th") if heads else ""
    body = "".join(_row(row, "td") for row in rows)
    return f'<section class="card {kind}"><h2>{title}</h2><table>{top}{body}</table></section>'


def _row(cells: tuple[str, ...], tag: str) -> str:
    others = "".join(f"<{tag}>{cell}</{tag}>" for cell in cells[1:])
    return f"<tr><th>{cells[0]}</th>{others}</tr>"


def _short(count: int) -> str:
    for step, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= step:
            return f"{count / step:.4g} {unit}"
    return str(count)
