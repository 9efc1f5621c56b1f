"""A plan as tables of texts, which the terminal and the page show alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tierd.core.units import format_bytes
from tierd_bench.planning.endurance import Lifetime
from tierd_bench.planning.loading import BreakEven
from tierd_bench.planning.report import Needed, Report, Workload

_LONG_YEARS: Final = 100


@dataclass(frozen=True, slots=True)
class Section:
    """A table, with what is written above it. `kind` says how its figures were found."""

    title: str
    kind: str
    about: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sections(report: Report) -> Iterator[Section]:
    """Yield the tables of a plan, most important first."""
    if report.workload is not None:
        yield from _workload(report, report.workload)
    yield _kv(report)
    yield _lengths(report)
    yield _settings(report)


def seconds(value: float) -> str:
    """Return a time for people."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}" if value < 1000 else f"{value:,.0f} s"
    return f"{value * 1e6:.3g} us"


def percent(share: float) -> str:
    """Return a share for people."""
    return f"{100 * share:.1f} %"


def break_even_words(one: BreakEven) -> str:
    """Return from where on loading wins, in words."""
    if one.tokens is None:
        return f"never, up to {one.looked_tokens:,} tokens"
    return f"from {one.tokens:,} tokens on"


def years(value: float | None) -> str:
    """Return a lifetime for people; the disk is not what fails first after a hundred years."""
    if value is None:
        return "nothing is written"
    if value > _LONG_YEARS:
        return f"over {_LONG_YEARS} years"
    return f"{value:.3g} years" if value >= 1 else f"{365.25 * value:.3g} days"


def terabytes(size: float) -> str:
    """Return bytes as data sheets of disks have them."""
    count = size / 1e12
    return f"{count:,.0f} TB" if count >= 1000 else f"{count:.3g} TB"


def _workload(report: Report, workload: Workload) -> Iterator[Section]:
    yield _tiers(report, workload)
    if workload.needed:
        yield Section(
            "Smallest tiers for a hit rate",
            "simulated",
            "Beside the host memory given, or without a disk.",
            ("hit rate", "host memory alone", "disk beside it", "blocks"),
            tuple(_needed(one, workload) for one in workload.needed),
        )
    yield _ttft(workload)
    if workload.lifetime is not None:
        yield _lifetime(workload.lifetime)


def _tiers(report: Report, workload: Workload) -> Section:
    rows = []
    for one in report.tiers:
        rate = percent(workload.hit_rates[one.tier])
        rows.append((f"{one.tier}, {format_bytes(one.bytes)}", f"{one.tokens:,}", rate))
    best, infinite = percent(workload.optimum), percent(workload.infinite_hit_rate)
    trace = workload.trace
    return Section(
        "Hit rate of the tiers given",
        "simulated",
        f"{trace.name}: {trace.requests:,} requests of {trace.sessions:,} sessions, under "
        f"{workload.policy}. {percent(workload.optimum_share)} of what the best possible "
        f"eviction hits, {percent(workload.infinite_share)} of what an infinite cache hits.",
        ("tier", "tokens that fit", "hit rate"),
        (
            *rows,
            ("all tiers", "", percent(workload.hit_rate)),
            ("best possible eviction, same size", "", best),
            ("infinite cache", f"{trace.unique_blocks * trace.block_tokens:,}", infinite),
        ),
    )


def _needed(one: Needed, workload: Workload) -> tuple[str, ...]:
    rate = percent(one.hit_rate)
    if one.blocks is None or one.host_alone_bytes is None:
        most = f"out of reach: an infinite cache hits {percent(workload.infinite_hit_rate)}"
        return (rate, most, "-", "-")
    disk = format_bytes(one.disk_bytes) if one.disk_bytes else "none needed"
    return (rate, format_bytes(one.host_alone_bytes), disk, f"{one.blocks:,}")


def _ttft(workload: Workload) -> Section:
    none = workload.ttft[0].busy_s
    rows = []
    for one in workload.ttft:
        saved = percent(1 - one.busy_s / none) if none else "-"
        busy = "-" if one.engines_busy is None else f"{one.engines_busy:.3g}"
        times = (one.mean_s, one.p50_s, one.p90_s, one.p99_s)
        rows.append((one.tiers, *map(seconds, times), saved, busy))
    return Section(
        "Time to first token",
        "simulated",
        "Each request alone: load what is held, compute the rest; what loads slower than it "
        "computes is computed. The last column is how many engines compute on average.",
        ("with", "mean", "p50", "p90", "p99", "prefill saved", "engines"),
        tuple(rows),
    )


def _lifetime(life: Lifetime) -> Section:
    return Section(
        "Disk",
        "simulated",
        "Every block that was missed is written once; what loads slower than it computes is not "
        "read.",
        ("", ""),
        (
            ("written in the trace", terabytes(life.bytes_written)),
            ("written a day", terabytes(life.bytes_per_day)),
            ("drive writes a day", f"{life.drive_writes_per_day:.3g}"),
            ("may be written in all", terabytes(life.endurance_bytes)),
            ("lifetime", years(life.years)),
            ("written, on average", f"{life.bytes_written / life.seconds / 1e9:.3g} GB/s"),
            ("read, on average", f"{life.bytes_read / life.seconds / 1e9:.3g} GB/s"),
        ),
    )


def _kv(report: Report) -> Section:
    kv = report.kv
    rows = [("KV a token", f"{format_bytes(kv.token_bytes)} ({kv.token_bytes:,} B)")]
    if kv.tensor_parallel > 1:
        rows.append((f"on each of {kv.tensor_parallel} ranks", f"{kv.rank_token_bytes:,} B"))
    if kv.windowed_bytes:
        rows.append(("of it, in layers with a window", format_bytes(kv.windowed_bytes)))
    rows.append((f"a block of {kv.block_tokens} tokens", format_bytes(kv.block_bytes)))
    if kv.state_bytes:
        rows.append(("of it, states of recurrent layers", format_bytes(kv.state_bytes)))
    rows += [
        (f"fits into {format_bytes(one.bytes)} of {one.tier}", f"{one.tokens:,} tokens")
        for one in report.tiers
        if one.bytes
    ]
    return Section(f"KV of {kv.model} in {kv.dtype}", "computed", "", ("", ""), tuple(rows))


def _lengths(report: Report) -> Section:
    said = "; ".join(
        f"{one.tier} at {one.bytes_per_s / 1e9:.3g} GB/s: {break_even_words(one)}"
        for one in report.break_evens
    )
    rows = tuple(
        (
            f"{one.tokens:,}",
            format_bytes(one.bytes),
            seconds(one.compute_s),
            seconds(one.host_s),
            seconds(one.disk_s),
            " and ".join(one.worth_loading) or "neither",
            f"{one.needed_bytes_per_s / 1e9:.3g} GB/s",
        )
        for one in report.lengths
    )
    return Section(
        "Loading a prefix against computing it",
        "computed",
        f"Loading wins: {said}.",
        ("tokens", "bytes", "compute", "host", "disk", "worth loading from", "breaks even at"),
        rows,
    )


def _settings(report: Report) -> Section:
    rows = tuple(
        (one.name, one.value, f"assumed: {one.origin}" if one.is_assumed else "given")
        for one in report.settings
    )
    return Section("What this rests on", "given or assumed", "", ("", "", ""), rows)
