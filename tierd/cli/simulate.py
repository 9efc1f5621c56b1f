"""`tierd simulate`: which hit rate a trace would have, by policy and capacity, without a daemon."""

import asyncio
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from tierd.cli import simulate_timed as timed
from tierd.cli.console import err, fail, out, refuse
from tierd.cli.extras import bench_or_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tierd_bench.simulate.capacities import Capacity
    from tierd_bench.simulate.references import References
    from tierd_bench.simulate.report import Report, TraceFacts
    from tierd_bench.simulate.study import Study
    from tierd_bench.simulate.timed import TimedRun
    from tierd_bench.traces import Trace

_INTERRUPTED = 130
_TRACES = "Traces"
_CACHES = "Caches"
_RUN = "Run"
_REPORTS = "Reports"


def _option(flag: str, panel: str, about: str, **more: Any) -> Any:
    return typer.Option(flag, help=about, rich_help_panel=panel, **more)


def simulate(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE...", help="Files, folders or tar archives; all together are one trace."
        ),
    ],
    policy: Annotated[
        str,
        _option(
            "--policy",
            _CACHES,
            "Names separated by commas, `all`, or your own as package.module:Class, installed or "
            "in the current folder.",
        ),
    ] = "chain_lru,s3_fifo,arc,gdsf,selector",
    capacity: Annotated[
        str,
        _option(
            "--capacity",
            _CACHES,
            "Separated by commas: shares of the unique blocks (10%), sizes (64GiB), or numbers of "
            "blocks (5000).",
        ),
    ] = "1%,5%,10%,25%,50%",
    points: Annotated[
        int | None,
        _option(
            "--points",
            _CACHES,
            "A curve: so many capacities from 0.5% to 100%, evenly on a logarithmic scale, in "
            "place of --capacity.",
            min=2,
            max=200,
        ),
    ] = None,
    bytes_per_token: Annotated[
        str,
        _option("--bytes-per-token", _CACHES, "Bytes of KV a token; 128KiB is Llama-3-8B."),
    ] = "128KiB",
    format: Annotated[
        str,
        _option(
            "--format",
            _TRACES,
            "auto, mooncake, claude-code, tau-bench, swe-agent, messages or lmcache.",
        ),
    ] = "auto",
    sessions: Annotated[
        int | None, _option("--sessions", _TRACES, "Only the first so many sessions.", min=1)
    ] = None,
    requests: Annotated[
        int | None, _option("--requests", _TRACES, "Only the first so many requests.", min=1)
    ] = None,
    block_tokens: Annotated[
        int | None,
        _option("--block-tokens", _TRACES, "Tokens of a block; the trace's own, or 64.", min=1),
    ] = None,
    tokenizer: Annotated[
        str, _option("--tokenizer", _TRACES, "Of traces that are text.")
    ] = "cl100k_base",
    overlap: Annotated[
        int,
        _option(
            "--overlap",
            _TRACES,
            "Sessions under way at once, on average, where the trace does not say when they began; "
            "0 has them follow one another.",
            min=0,
        ),
    ] = 40,
    seed: Annotated[int, _option("--seed", _TRACES, "Of that overlap.", min=0)] = 0,
    hints: Annotated[
        bool,
        _option(
            "--hints",
            _CACHES,
            "Tell policies what engines can: a session ended, or waits for a tool or a person.",
        ),
    ] = False,
    sample: Annotated[
        str,
        _option(
            "--sample",
            _RUN,
            "Run policies on this share of the blocks only, such as 10%; with an estimate of the "
            "error.",
        ),
    ] = "100%",
    jobs: Annotated[
        int | None,
        _option("--jobs", _RUN, "Processes; one for each core if left out.", min=1, max=1024),
    ] = None,
    host: timed.Host = None,
    disk: timed.Disk = "0",
    device: timed.Device = "0",
    admission: timed.Admission = "always",
    write_budget: timed.WriteBudget = "0",
    users: timed.Users = 8,
    engines: timed.Engines = 1,
    speed: timed.Speed = None,
    closed: timed.Closed = False,
    route: timed.DiskRoute = "auto",
    model: timed.Model = None,
    tflops: timed.Tflops = None,
    utilisation: timed.Utilisation = None,
    tokens_per_s: timed.TokensPerS = None,
    host_bandwidth: timed.HostBandwidth = None,
    disk_bandwidth: timed.DiskBandwidth = None,
    disk_writes: timed.DiskWrites = None,
    json_file: Annotated[
        Path | None, _option("--json", _REPORTS, "Write the figures there.", metavar="FILE")
    ] = None,
    csv_file: Annotated[
        Path | None, _option("--csv", _REPORTS, "Write the rows there.", metavar="FILE")
    ] = None,
    html_file: Annotated[
        Path | None, _option("--html", _REPORTS, "Write a page with charts there.", metavar="FILE")
    ] = None,
) -> None:
    """Simulate caches of several sizes and policies over a trace, beside the best possible.

    A request asks for the blocks of its prompt, root first; a block hits only if all before it
    hit. The hit rate is hits over block references. What was missed is inserted, leaves are
    evicted first, and blocks of the request in flight never are; of a request longer than the
    cache the leading blocks are kept. Requests come in the order of their recorded arrivals.

    The optimum is Belady's: no cache does better that holds each request when it ends. Capacity
    is counted in blocks; a share is one of the trace's unique blocks, rounded down.

    With --host the daemon's own store is run, too, on a virtual clock with modelled tiers: hits by
    tier, bytes by route, and the time to the first token beside that without a cache.
    """
    bench_or_end()
    for file in (json_file, csv_file, html_file):
        if file is not None and not file.absolute().parent.is_dir():
            refuse(f"{file}: no such directory", "create it first, or write elsewhere")
    from tierd_bench.simulate.capacities import curve
    from tierd_bench.simulate.references import without_hints
    from tierd_bench.simulate.study import Study
    from tierd_bench.simulate.sweep import available_cores

    policies = _policies(policy)
    wanted = _capacities(capacity) if points is None else curve(points)
    sample_ratio = _sample_ratio(sample)
    token_bytes = _size("--bytes-per-token", bytes_per_token)
    given = timed.Timed(
        host,
        disk,
        device,
        admission,
        write_budget,
        users,
        engines,
        speed,
        closed,
        route,
        model,
        tflops,
        utilisation,
        tokens_per_s,
        host_bandwidth,
        disk_bandwidth,
        disk_writes,
    )
    setting = timed.timed_setting(given, token_bytes)
    token_bytes = token_bytes if setting is None else setting.bytes_per_token
    read = _read(traces, format, block_tokens, sessions, requests, tokenizer)
    references, facts = _prepare(read, token_bytes, overlap, seed)
    if not hints:
        references = without_hints(references)
    block_bytes = facts.block_tokens * token_bytes
    sizes = {each.size(facts.unique_blocks, block_bytes): None for each in wanted}
    study = Study(policies, tuple(sizes), sample_ratio, jobs or available_cores())
    report = _run(references, facts, study)
    runs = [] if setting is None else timed.run_timed(read, setting, policies)
    _show(report, runs, json_file, csv_file, html_file)


def _policies(text: str) -> tuple[str, ...]:
    from tierd_policies.registry import EVICTION, UnknownPolicy, eviction

    # An installed command does not look into the folder that it is called in.
    sys.path.append(str(Path.cwd()))
    names = list(EVICTION) if text.strip() == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        try:
            eviction(name)
        except UnknownPolicy as error:
            refuse(str(error), "correct --policy; its names are separated by commas")
    return tuple(dict.fromkeys(names))


def _capacities(text: str) -> "list[Capacity]":
    from tierd_bench.simulate.capacities import BadCapacity, read_capacity

    try:
        return [read_capacity(each) for each in text.split(",")]
    except BadCapacity as error:
        refuse(
            f"--capacity: {error}",
            "write shares up to 100%, sizes such as 64GiB, or numbers of blocks, with commas",
        )


def _sample_ratio(text: str) -> float:
    from tierd_bench.simulate.capacities import BadCapacity, read_capacity

    try:
        share = read_capacity(text)
    except BadCapacity:
        share = None
    if share is None or share.unit != "share":
        refuse(f"--sample is {text!r}", "write a share of the blocks above 0%, such as 10%")
    return share.amount


def _size(option: str, text: str) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size < 1:
        refuse(f"{option} is {text!r}", "write a size, such as 128KiB or 131072")
    return size


def _read(
    traces: list[Path],
    format: str,
    block_tokens: int | None,
    sessions: int | None,
    requests: int | None,
    tokenizer: str,
) -> "Trace":
    from tierd_bench.traces import TraceError, read_trace

    with err.status("reading the trace"):
        try:
            return read_trace(traces, format, block_tokens, sessions, requests, tokenizer)
        except TraceError as error:
            refuse(f"{error.source}: {error.found}", error.remedy)


def _prepare(
    trace: "Trace", token_bytes: int, overlap: int, seed: int
) -> "tuple[References, TraceFacts]":
    from tierd_bench.simulate.references import references_of
    from tierd_bench.simulate.report import facts_of

    with err.status("putting the requests in order"):
        references = references_of(trace, overlap, seed)
    if not references.unique_blocks:
        refuse(f"{trace.name}: no whole block in it", "use smaller ones: --block-tokens 16")
    return references, facts_of(trace, references, token_bytes, overlap, seed)


def _run(references: "References", facts: "TraceFacts", study: "Study") -> "Report":
    from tierd_bench.simulate.study import simulate as simulate_study

    try:
        with _progress_bar() as tell:
            return simulate_study(references, facts, study, tell)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenProcessPool:
        fail("a process of the simulation ended early", "use fewer --jobs, or a smaller --sample")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "free space for temporary files; or --jobs 1")


@contextmanager
def _progress_bar() -> "Iterator[Callable[[int, int], None]]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("simulating"),
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TextColumn("{task.fields[of]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None, of="")

        def tell(done: int, total: int) -> None:
            of = f"{done / 1e6:.1f} of {total / 1e6:.1f} million block references"
            bar.update(task, completed=done, total=total, of=of)

        yield tell


def _show(
    report: "Report",
    runs: "Sequence[TimedRun]",
    json_file: Path | None,
    csv_file: Path | None,
    html_file: Path | None,
) -> None:
    from tierd_bench.replay.files import write_json, write_text
    from tierd_bench.simulate.table import render_report
    from tierd_bench.simulate.timed_table import render_timed

    out.print(render_report(report))
    figures = report.as_json()
    if runs:
        out.print(render_timed(runs))
        figures["timed"] = [run.as_json() for run in runs]
    try:
        if json_file is not None:
            asyncio.run(write_json(json_file, figures))
            out.print(f"figures: {json_file}")
        if csv_file is not None:
            asyncio.run(write_text(csv_file, report.as_csv()))
            out.print(f"rows: {csv_file}")
        if html_file is not None:
            from tierd_bench.simulate.page import render_page

            asyncio.run(write_text(html_file, render_page(report, runs)))
            out.print(f"page with charts: {html_file}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "free the path; the figures are above")
