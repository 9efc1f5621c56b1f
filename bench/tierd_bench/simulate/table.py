"""A simulation's figures as tables for the terminal."""

from collections.abc import Iterable, Sequence
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tierd.core.units import format_bytes
from tierd_bench.simulate.report import BoundPoint, Report, Run, TraceFacts


def render_report(report: Report) -> RenderableType:
    """Return the figures for a console."""
    return Group(_rates(report), *(Text(note, style="dim") for note in _notes(report)))


def _rates(report: Report) -> Table:
    points = report.bounds
    headings = [_heading(report, point) for point in points]
    rows = {
        "infinite": [_percent(report.infinite_hit_rate) for _ in points],
        "optimum": [_percent(point.belady) for point in points],
        "LRU": [_cell(point.chain_lru, point.belady, None) for point in points],
    }
    for policy, runs in _by_policy(report.runs).items():
        pairs = zip(runs, points, strict=True)
        rows[policy] = [_cell(run.hit_rate, point.belady, run.error) for run, point in pairs]
    if len(points) > len(rows):
        # A curve is read from top to bottom.
        columns, lines = list(rows), [" ".join(heading[::2]) for heading in headings]
        return _table(report, columns, lines, list(zip(*rows.values(), strict=True)))
    return _table(report, ["\n".join(h) for h in headings], list(rows), list(rows.values()))


def _table(
    report: Report, columns: Sequence[str], lines: Sequence[str], cells: Sequence[Sequence[str]]
) -> Table:
    table = Table(
        title=_title(report.trace),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("hit rate, %", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for line, row in zip(lines, cells, strict=True):
        table.add_row(line, *row)
    return table


def _title(facts: TraceFacts) -> str:
    return (
        f"{facts.name}: {facts.block_references:,} block references in {facts.requests:,} "
        f"requests, {facts.unique_blocks:,} unique blocks of {facts.block_tokens} tokens"
    )


def _heading(report: Report, point: BoundPoint) -> tuple[str, str, str]:
    size = point.capacity_blocks * report.trace.block_tokens * report.trace.bytes_per_token
    return f"{100 * point.capacity_share:.3g} %", f"{point.capacity_blocks:,}", format_bytes(size)


def _cell(rate: float, optimum: float, error: float | None) -> str:
    around = "" if error is None else f"±{100 * error:.1f}"
    share = f" ({100 * rate / optimum:.0f})" if optimum else ""
    return f"{_percent(rate)}{around}{share}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _by_policy(runs: Iterable[Run]) -> dict[str, list[Run]]:
    rows: dict[str, list[Run]] = {}
    for run in runs:
        rows.setdefault(run.policy, []).append(run)
    return rows


def _notes(report: Report) -> Iterable[str]:
    facts = report.trace
    size = format_bytes(facts.bytes_per_token)
    yield f"capacity: share of unique blocks; blocks; bytes at {size} a token"
    yield "in parentheses: percent of the optimum, which is Belady's"
    yield f"order of requests: {facts.order}"
    if report.sample_ratio < 1:
        yield (
            f"policies were run on {100 * report.sample_ratio:.3g} % of the blocks; "
            "± is about how far off they may be; bounds and chain LRU are of the whole trace"
        )
    speeds = (
        f"{policy} {median(run.references_per_s for run in runs) / 1e3:,.0f}"
        for policy, runs in _by_policy(report.runs).items()
    )
    yield f"thousand block references a second and core: {', '.join(speeds)}"
