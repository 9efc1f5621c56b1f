"""A replay's figures as tables for the terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd.core.units import format_bytes
from tierd_bench.replay.report import Latency, Report


def render_table(report: Report) -> RenderableType:
    """Return the figures for a console."""
    return Group(
        _tokens(report),
        "",
        _routes(report),
        "",
        _facts(report),
        *(Text(f"note: {note}", style="dim") for note in report.notes),
    )


def _tokens(report: Report) -> Table:
    table = Table(title=f"Replay of {report.trace}", title_justify="left", title_style="bold")
    table.add_column("tokens")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    asked = max(1, report.tokens_asked)
    for tier, count in report.tokens_hit.items():
        table.add_row(f"hit in {tier}", f"{count:,}", f"{100 * count / asked:.2f} %")
    missed = report.tokens_missed
    table.add_row("missed", f"{missed:,}", f"{100 * missed / asked:.2f} %", end_section=True)
    hit = sum(report.tokens_hit.values())
    rate = f"{100 * report.hit_rate:.2f} %"
    table.add_row("asked", f"{report.tokens_asked:,}", "100.00 %")
    table.add_row("[bold]hit, all tiers", f"[bold]{hit:,}", f"[bold]{rate}")
    infinite = f"{100 * report.infinite_cache_hit_rate:.2f} %"
    table.add_row("an infinite cache would hit", "", infinite)
    return table


def _routes(report: Report) -> Table:
    table = Table()
    table.add_column("route")
    table.add_column("bytes", justify="right")
    table.add_column("seconds, all users", justify="right")
    table.add_column("GB/s a user", justify="right")
    for name, size in report.bytes_by_route.items():
        seconds, rate = report.seconds_by_route[name], report.gb_per_s_by_route[name]
        table.add_row(name, format_bytes(size), f"{seconds:.3f}", f"{rate:.2f}")
    return table


def _facts(report: Report) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _rows(report):
        table.add_row(name, value)
    return table


def _rows(report: Report) -> Iterable[tuple[str, str]]:
    yield "requests", f"{report.requests:,} in {report.wall_s:.2f} s"
    yield "fetched, all users", f"{report.fetch_gb_per_s:.2f} GB/s"
    yield "fetch p50 / p90 / p99", _marks(report.fetch_ms)
    yield "publish p50 / p90 / p99", _marks(report.publish_ms)
    if report.late_ms.count:
        yield "late to start p50 / p90 / p99", _marks(report.late_ms)
    yield "blocks published", f"{report.blocks_published:,}"
    yield "blocks declined to the end", f"{report.blocks_unpublished:,}"
    yield "evictions", f"{report.evictions:,}"
    yield "written to disk", format_bytes(report.disk_bytes_written)
    style = "bold red" if report.corrupt_blocks else "bold green"
    yield "corrupt blocks", f"[{style}]{report.corrupt_blocks:,}[/]"
    for page in report.corrupt_pages:
        yield "[red]corrupt[/]", page
    if report.daemon_gaps:
        yield "times the daemon went away", f"{report.daemon_gaps:,}"
    for why, count in report.fetches_cut.items():
        yield f"fetches cut: {why}", f"{count:,}"
    for what, count in report.faults.items():
        yield f"[red]{what}[/]", f"{count:,}"


def _marks(times: Latency) -> str:
    return f"{times.p50:.3g} / {times.p90:.3g} / {times.p99:.3g} ms"
