"""A plan's page: one HTML file with charts and tables, which needs no network."""

from collections.abc import Iterator
from typing import Final

from tierd.core.units import format_bytes
from tierd_bench.pages import Page, Table, Tile, render
from tierd_bench.planning.charts import make_charts
from tierd_bench.planning.report import Report
from tierd_bench.planning.sections import (
    percent,
    seconds,
    sections,
    terabytes,
    years,
)

_WHAT: Final = (
    "Computed figures follow from sizes and rates, simulated ones from the trace besides; none is "
    "measured. The last table says what all of it rests on."
)


def render_page(report: Report) -> str:
    """Return the page of a plan."""
    page = Page(
        heading=f"Plan for {report.kv.model}",
        subtitle=_subtitle(report),
        tiles=_tiles(report),
        notes=[_WHAT, *report.notes],
        charts=make_charts(report),
        tables=_tables(report),
        footer=f"Made by tierd {report.version}. Computed or simulated, not measured.",
    )
    return render(page)


def _subtitle(report: Report) -> str:
    kv = report.kv
    ranks = f" · {kv.tensor_parallel} ranks" if kv.tensor_parallel > 1 else ""
    trace = "" if report.workload is None else f" · {report.workload.trace.name}"
    return f"KV in {kv.dtype}, blocks of {kv.block_tokens} tokens{ranks}{trace}"


def _tables(report: Report) -> Iterator[Table]:
    for one in sections(report):
        heads = one.heads if any(one.heads) else ()
        yield Table(f"{one.title} ({one.kind})", one.rows, heads, one.about)


def _tiles(report: Report) -> Iterator[Tile]:
    kv = report.kv
    block = f"{format_bytes(kv.block_bytes)} a block of {kv.block_tokens}"
    yield Tile("KV a token", format_bytes(kv.token_bytes), f"{block}, computed")
    for one in report.break_evens:
        rate = f"at {one.bytes_per_s / 1e9:.3g} GB/s, computed"
        least = "never" if one.tokens is None else f"{one.tokens:,} tokens"
        yield Tile(f"Loading from {one.tier} pays from", least, rate)
    if report.workload is None:
        return
    work = report.workload
    best = f"{percent(work.optimum_share)} of the best possible, simulated"
    yield Tile("Hit rate", percent(work.hit_rate), best)
    none, *_, last = work.ttft
    against = f"without a cache {seconds(none.mean_s)}, simulated"
    yield Tile("Time to first token, mean", seconds(last.mean_s), against)
    if work.lifetime is not None:
        written = f"{terabytes(work.lifetime.bytes_per_day)} a day, simulated"
        yield Tile("Disk lives", years(work.lifetime.years), written)
