"""The figures of timed simulations as a table for the terminal."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd.core.units import format_bytes
from tierd_bench.replay.report import Latency
from tierd_bench.simulate.timed import TimedRun


def render_timed(runs: Sequence[TimedRun]) -> RenderableType:
    """Return the figures for a console, a column a run."""
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in runs[0].tier_bytes.items())
    table = Table(
        title=f"the daemon with {sizes}; simulated",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for run in runs:
        table.add_column(run.policy, justify="right", overflow="fold")
    lines = [_lines(run) for run in runs]
    for name in lines[0]:
        table.add_row(name, *(cells[name] for cells in lines))
    return Group(table, *(Text(note, style="dim") for note in _notes(runs)))


def _lines(run: TimedRun) -> dict[str, str]:
    rates = {
        f"hit in {name}, %": f"{100 * run.hit_rate_by_tier[name]:.2f}" for name in run.tier_bytes
    }
    return rates | {
        "hit, all tiers, %": f"{100 * run.hit_rate:.2f}",
        "tokens saved, millions": f"{run.tokens_saved / 1e6:,.2f}",
        "fetch p50 / p90 / p99, ms": _latency(run.fetch_ms),
        "first token p50 / p90 / p99, ms": _latency(run.ttft_ms),
        "the same without a cache": _latency(run.ttft_cold_ms),
        "GPU seconds": f"{run.gpu_s:,.1f}",
        "GPU seconds saved": f"{run.gpu_saved_s:,.1f}",
        "simulated seconds": f"{run.seconds:,.1f}",
        "the same without a cache, s": f"{run.seconds_cold:,.1f}",
        "read from host": _bytes(run, "host"),
        "read from disk, staged": _bytes(run, "disk-staged"),
        "read from disk, direct": _bytes(run, "disk-direct"),
        "written to disk": format_bytes(run.disk_bytes_written),
        "write amplification": f"{run.write_amplification:.2f}",
        "blocks published": f"{run.blocks_published:,}",
        "blocks declined to the end": f"{run.blocks_unpublished:,}",
        "evictions": f"{sum(run.evictions_by_tier.values()):,}",
        "fetches cut short": f"{sum(run.fetches_cut.values()):,}",
    }


def _latency(times: Latency) -> str:
    return " / ".join(_milliseconds(mark) for mark in (times.p50, times.p90, times.p99))


def _milliseconds(time: float) -> str:
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _bytes(run: TimedRun, route: str) -> str:
    return format_bytes(run.bytes_by_route.get(route, 0))


def _notes(runs: Sequence[TimedRun]) -> Iterable[str]:
    yield "every figure here is simulated: the real store and policies, on modelled tiers"
    if not any(run.gpu_cold_s for run in runs):
        yield "prefill takes no time here; say how long with --prefill-tokens-per-s or --model"
