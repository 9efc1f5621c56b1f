"""A simulation's page: charts and tables in one HTML file, which needs no network."""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Final, TypeVar

from tierd.core.units import format_bytes
from tierd_bench.pages import Page, Table, Tile, render
from tierd_bench.simulate.charts import make_charts, styles_of
from tierd_bench.simulate.charts_timed import (
    fastest,
    make_timed_charts,
    run_names,
    tier_sizes,
    timed_prefill,
)
from tierd_bench.simulate.page_words import (
    block_bytes,
    percent,
    points_of,
    runs_at,
    runs_by_policy,
    seconds,
    share,
    telling,
)
from tierd_bench.simulate.report import Report, Run
from tierd_bench.simulate.timed import TimedRun

_RATE_HEADS: Final = ("of unique blocks", "blocks", "bytes", "infinite", "optimum", "LRU")
_RUN_HEADS: Final = (
    "policy",
    "of unique blocks",
    "bytes",
    "block hit rate",
    "token hit rate",
    "tokens saved",
    "blocks evicted",
)
_TIME_HEADS: Final = (
    "TTFT p50",
    "TTFT p99",
    "no cache p50",
    "no cache p99",
    "fetch p50",
    "GPU time saved",
)

_T = TypeVar("_T")


def render_page(report: Report, timed: Sequence[TimedRun] = ()) -> str:
    """Return the page of a simulation, with the runs that were timed if there are some."""
    styles = styles_of([run.policy for run in report.runs] + [run.policy for run in timed])
    first, *others = make_charts(report, styles)
    page = Page(
        heading=f"Simulation of {report.trace.name}",
        subtitle=_subtitle(report),
        tiles=[*_tiles(report), *_timed_tiles(timed)],
        notes=_notes(report, timed),
        charts=[first, *make_timed_charts(timed, styles), *others],
        tables=_tables(report, timed),
        footer=f"Made by tierd {version('tierd')}. Simulated, not measured.",
    )
    return render(page)


def _subtitle(report: Report) -> str:
    facts = report.trace
    return (
        f"{facts.requests:,} requests of {facts.sessions:,} sessions · "
        f"{facts.block_references:,} block references, {facts.unique_blocks:,} unique blocks of "
        f"{facts.block_tokens} tokens, {format_bytes(block_bytes(report))} each"
    )


def _tiles(report: Report) -> Iterator[Tile]:
    yield Tile(
        "Infinite cache hits",
        percent(report.infinite_hit_rate),
        f"it would hold {format_bytes(report.trace.unique_blocks * block_bytes(report))}",
    )
    point = telling(report)
    at = f"at {share(point.capacity_share)} of the unique blocks"
    yield Tile("Optimum hits", percent(point.belady), at)
    best = max(runs_at(report, point).values(), key=lambda run: run.hit_rate)
    yield Tile(f"{best.policy} hits", percent(best.hit_rate), f"{at}, simulated")
    yield Tile(
        "Of the optimum",
        percent(best.optimum_share),
        f"{best.policy}; LRU: {percent(point.chain_lru / point.belady if point.belady else 1.0)}",
    )


def _timed_tiles(timed: Sequence[TimedRun]) -> Iterator[Tile]:
    if not timed_prefill(timed):
        return
    run = fastest(timed)
    without = f"without a cache {seconds(run.ttft_cold_ms.p50)}, simulated"
    yield Tile("First token, median", seconds(run.ttft_ms.p50), without)
    saved = percent(run.gpu_saved_s / max(run.gpu_cold_s, 1e-9))
    yield Tile("GPU time saved", saved, f"{run.policy}, simulated")


def _notes(report: Report, timed: Sequence[TimedRun]) -> Iterator[str]:
    yield (
        "Nothing here was measured: a block hits only if all before it in its prompt hit, every "
        "cache starts empty, and what was missed is inserted. The optimum and LRU are computed."
    )
    yield f"Order of requests: {report.trace.order}."
    if report.sample_ratio < 1:
        yield (
            f"Policies were run on {share(report.sample_ratio)} of the blocks, so their hit "
            "rates are estimates, and what can only be counted on the whole trace is left out."
        )
    if not timed:
        yield (
            "No run was timed, so there is no time to first token and nothing written to disk: "
            "give the sizes of the tiers, such as --host 64GiB --disk 1TiB."
        )
        return
    if not timed_prefill(timed):
        yield (
            "Prompts took no time to compute, so there is no chart of the time to first token: "
            "say how fast engines are, with --model or --prefill-tokens-per-s."
        )
    if not any(run.disk_bytes_written for run in timed):
        yield "Nothing was written to disk: without --disk there is none."


def _tables(report: Report, timed: Sequence[TimedRun]) -> Iterator[Table]:
    yield _rates_table(report)
    yield _runs_table(report)
    if timed:
        yield _timed_table(timed)
        yield _bytes_table(timed)
    yield _trace_table(report)


def _rates_table(report: Report) -> Table:
    return Table(
        "Hit rate by capacity and policy (simulated)",
        [
            (
                share(point.capacity_share),
                f"{point.capacity_blocks:,}",
                format_bytes(point.capacity_blocks * block_bytes(report)),
                percent(report.infinite_hit_rate),
                percent(point.belady),
                percent(point.chain_lru),
                *map(_rate, runs_at(report, point).values()),
            )
            for point in points_of(report)
        ],
        (*_RATE_HEADS, *runs_by_policy(report)),
        "In parentheses: share of the optimum.",
        "numbers",
    )


def _rate(run: Run) -> str:
    around = "" if run.error is None else f" ± {100 * run.error:.1f}"
    return f"{100 * run.hit_rate:.1f}{around} % ({100 * run.optimum_share:.0f})"


def _runs_table(report: Report) -> Table:
    rows = [
        (
            run.policy,
            share(run.capacity_share),
            format_bytes(run.capacity_bytes),
            percent(run.hit_rate),
            _known(run.token_hit_rate, percent),
            _known(run.tokens_saved, "{:,}".format),
            _known(run.evictions, "{:,}".format),
        )
        for runs in runs_by_policy(report).values()
        for run in runs
    ]
    return Table("Every run (simulated)", rows, _RUN_HEADS, kind="numbers")


def _known(value: _T | None, shown: Callable[[_T], str]) -> str:
    return "unknown" if value is None else shown(value)


def _timed_table(timed: Sequence[TimedRun]) -> Table:
    rows = [
        (
            name,
            tier_sizes(run),
            percent(run.hit_rate),
            *(percent(rate) for rate in run.hit_rate_by_tier.values()),
            seconds(run.ttft_ms.p50),
            seconds(run.ttft_ms.p99),
            seconds(run.ttft_cold_ms.p50),
            seconds(run.ttft_cold_ms.p99),
            seconds(run.fetch_ms.p50),
            f"{run.gpu_saved_s:,.4g} of {run.gpu_cold_s:,.4g} s",
        )
        for name, run in run_names(timed).items()
    ]
    heads = ("run", "tiers", "hit rate", *timed[0].hit_rate_by_tier, *_TIME_HEADS)
    return Table("Timed runs: hits and times (simulated)", rows, heads, kind="numbers")


def _bytes_table(timed: Sequence[TimedRun]) -> Table:
    routes = list(dict.fromkeys(name for run in timed for name in run.bytes_by_route))
    rows = [
        (
            name,
            *(format_bytes(run.bytes_by_route.get(route, 0)) for route in routes),
            format_bytes(run.disk_bytes_written),
            f"{run.write_amplification:.3f}",
        )
        for name, run in run_names(timed).items()
    ]
    return Table(
        "Timed runs: bytes (simulated)",
        rows,
        ("run", *routes, "written to disk", "write amplification"),
        "Read over each route, published by engines, and written to disk with headers and index.",
        "numbers",
    )


def _trace_table(report: Report) -> Table:
    facts = report.trace
    return Table(
        "Trace",
        [
            ("name", facts.name),
            ("requests", f"{facts.requests:,}"),
            ("sessions", f"{facts.sessions:,}"),
            ("prompt tokens", f"{facts.prompt_tokens:,}"),
            ("tokens of a block", f"{facts.block_tokens:,}"),
            ("KV of a token", format_bytes(facts.bytes_per_token)),
            ("block references", f"{facts.block_references:,}"),
            ("unique blocks", f"{facts.unique_blocks:,}"),
            ("order of requests", facts.order),
        ],
    )
