"""A replay's page: one HTML file with charts and tables, which needs no network."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tierd.core.units import format_bytes
from tierd_bench.pages import Page, Table, Tile, render
from tierd_bench.replay.charts import COLOURS, make_charts
from tierd_bench.replay.driver import Driven
from tierd_bench.replay.report import Latency, Report
from tierd_bench.replay.samples import Sampler

_TOKEN_COLOURS: Final = {**COLOURS, "missed": "#9aa6b6"}


def render_page(report: Report, driven: Driven, sampler: Sampler) -> str:
    """Return the page of a replay."""
    page = Page(
        heading=f"Replay of {report.trace}",
        subtitle=_subtitle(report),
        tiles=_tiles(report),
        notes=report.notes,
        charts=make_charts(report, driven, sampler),
        tables=_tables(report),
        footer=f"Made by tierd {report.version}. Tokens are whole blocks of prompts.",
        tables_in="columns",
    )
    return render(page)


def _subtitle(report: Report) -> str:
    return (
        f"{report.requests:,} requests of {report.sessions:,} sessions in {report.wall_s:.1f} s · "
        f"blocks of {report.block_tokens} tokens, "
        f"{format_bytes(report.block_tokens * report.bytes_per_token)} each · "
        f"{report.unique_blocks:,} different blocks"
    )


def _tiles(report: Report) -> Iterable[Tile]:
    yield Tile(
        "Hit rate",
        f"{100 * report.hit_rate:.1f} %",
        f"infinite cache: {100 * report.infinite_cache_hit_rate:.1f} %",
    )
    served = sum(report.tokens_hit.values())
    yield Tile("Tokens served", _short(served), f"of {_short(report.tokens_asked)} asked")
    fetched = sum(size for name, size in report.bytes_by_route.items() if name != "publish")
    yield Tile("Fetched", format_bytes(fetched), f"{report.fetch_gb_per_s:.2f} GB/s, all users")
    yield Tile(
        "Fetch, median",
        f"{report.fetch_ms.p50:.3g} ms",
        f"p90 {report.fetch_ms.p90:.3g} ms · p99 {report.fetch_ms.p99:.3g} ms",
    )
    checked = served // report.block_tokens
    yield Tile(
        "Corrupt blocks",
        f"{report.corrupt_blocks:,}",
        f"of {checked:,} compared",
        "bad" if report.corrupt_blocks else "good",
    )


def _tables(report: Report) -> Iterable[Table]:
    yield Table(
        "Where the tokens came from",
        _token_rows(report),
        ("", "tokens", "share"),
        kind="numbers",
        colours=_TOKEN_COLOURS,
    )
    yield Table("In the daemon", _daemon_rows(report), kind="numbers")
    heads = ("ms", "p50", "p90", "p99", "max", "count")
    yield Table("Times", _time_rows(report), heads, kind="numbers")
    yield Table("Checks", _check_rows(report), kind="numbers")
    yield Table("Configuration", _pairs(report.config))
    machine = report.machine
    rows = [
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("memory", format_bytes(machine.memory_bytes)),
        ("system", f"{machine.system}, Python {machine.python}"),
    ]
    yield Table("Machine", rows)


def _token_rows(report: Report) -> list[tuple[str, ...]]:
    counts = [*report.tokens_hit.items(), ("missed", report.tokens_missed)]
    rows = [
        (name, f"{count:,}", f"{100 * count / max(1, report.tokens_asked):.2f} %")
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
        ("blocks evicted", ", ".join(evicted) or "0"),
        ("written to disk", format_bytes(report.disk_bytes_written)),
        *routes,
    ]


def _check_rows(report: Report) -> list[tuple[str, ...]]:
    rows = [
        ("corrupt blocks served", f"{report.corrupt_blocks:,}"),
        ("corrupt blocks that the daemon found itself", f"{report.daemon_corrupt_blocks:,}"),
        ("times the daemon went away", f"{report.daemon_gaps:,}"),
        *((f"fetches cut: {why}", f"{n:,}") for why, n in report.fetches_cut.items()),
        *((what, f"{count:,}") for what, count in report.faults.items()),
    ]
    return [*rows, *(("corrupt", page) for page in report.corrupt_pages)]


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return what was given or chosen; options that were left out say nothing."""
    given = ((_label(name), value) for name, value in values.items())
    return [(name, _plain(value)) for name, value in given if value]


def _label(name: str) -> str:
    return name.removesuffix("_s").replace("_", " ") + (" (s)" if name.endswith("_s") else "")


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _short(count: int) -> str:
    for step, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= step:
            return f"{count / step:.4g} {unit}"
    return str(count)
