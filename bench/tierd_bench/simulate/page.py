"""A simulation's page: charts and tables in one HTML file, which needs no network."""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TypeVar

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
    count,
    percent,
    points_of,
    runs_at,
    runs_by_policy,
    seconds,
    share,
    telling,
)
from tierd_bench.simulate.report import Report
from tierd_bench.simulate.timed import TimedRun

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
        tables=[*_tables(report), *_timed_tables(timed), _trace_table(report)],
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
    elif not timed_prefill(timed):
        yield (
            "Prompts took no time to compute, so there is no chart of the time to first token: "
            "say how fast engines are, with --model or --prefill-tokens-per-s."
        )


def _tables(report: Report) -> Iterator[Table]:
    runs = runs_by_policy(report)
    yield Table(
        "Hit rate by capacity and policy (simulated)",
        [
            (
                share(point.capacity_share),
                f"{point.capacity_blocks:,}",
                format_bytes(point.capacity_blocks * block_bytes(report)),
                percent(report.infinite_hit_rate),
                percent(point.belady),
                percent(point.chain_lru),
                *(
                    _rate(run.hit_rate, run.error, run.optimum_share)
                    for run in runs_at(report, point).values()
                ),
            )
            for point in points_of(report)
        ],
        ("of unique blocks", "blocks", "bytes", "infinite", "optimum", "LRU", *runs),
        "In parentheses: share of the optimum.",
        "numbers",
    )
    yield Table(
        "Every run (simulated)",
        [
            (
                run.policy,
                share(run.capacity_share),
                format_bytes(run.capacity_bytes),
                percent(run.hit_rate),
                _known(run.token_hit_rate, percent),
                _known(run.tokens_saved, count),
                _known(run.evictions, count),
            )
            for of in runs.values()
            for run in of
        ],
        (
            "policy",
            "of unique blocks",
            "bytes",
            "block hit rate",
            "token hit rate",
            "tokens saved",
            "blocks evicted",
        ),
        kind="numbers",
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


def _timed_tables(timed: Sequence[TimedRun]) -> Iterator[Table]:
    if not timed:
        return
    names = run_names(timed)
    yield Table(
        "Timed runs: hits and times (simulated)",
        [
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
            for name, run in names.items()
        ],
        (
            "run",
            "tiers",
            "hit rate",
            *timed[0].hit_rate_by_tier,
            "TTFT p50",
            "p99",
            "no cache p50",
            "p99",
            "fetch p50",
            "GPU time saved",
        ),
        kind="numbers",
    )
    routes = list(dict.fromkeys(name for run in timed for name in run.bytes_by_route))
    yield Table(
        "Timed runs: bytes (simulated)",
        [
            (
                name,
                *(format_bytes(run.bytes_by_route.get(name, 0)) for name in routes),
                format_bytes(run.disk_bytes_written),
                f"{run.write_amplification:.3f}",
            )
            for name, run in names.items()
        ],
        ("run", *routes, "written to disk", "write amplification"),
        "Read over each route, published by engines, and written to the disk with headers and "
        "index.",
        "numbers",
    )


def _rate(rate: float, error: float | None, optimum_share: float) -> str:
    around = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * rate:.1f}{around} % ({100 * optimum_share:.0f})"


def _known(value: _T | None, shown: Callable[[_T], str]) -> str:
    return "unknown" if value is None else shown(value)
