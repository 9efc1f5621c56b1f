"""`tierd replay`: drive a daemon with a recorded trace, check every byte, report."""

import asyncio
import math
import signal
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from tierd.cli.console import err, fail, out, refuse
from tierd.cli.extras import bench_or_end
from tierd.cli.settings import settings
from tierd.core.errors import InvalidRequest, TierdError
from tierd.core.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tierd_bench.replay.driver import Progress
    from tierd_bench.replay.plan import Embedded, Plan, Replayed
    from tierd_bench.traces import Trace
    from tierd_client.splitting import Route

_INTERRUPTED = 130
_TRACES = "Traces"
_PACE = "Pace"
_DAEMON = "Daemon"
_REPORTS = "Reports"


def _option(flag: str, panel: str, about: str, **more: Any) -> Any:
    return typer.Option(flag, help=about, rich_help_panel=panel, **more)


def replay(
    traces: Annotated[
        list[Path], typer.Argument(metavar="TRACE...", help="Files, folders or tar archives.")
    ],
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
    bytes_per_token: Annotated[
        str,
        _option("--bytes-per-token", _TRACES, "Bytes of KV a token; 128KiB is Llama-3-8B."),
    ] = "1KiB",
    tokenizer: Annotated[
        str, _option("--tokenizer", _TRACES, "Of traces that are text.")
    ] = "cl100k_base",
    users: Annotated[
        int, _option("--users", _PACE, "Requests under way at once, at most.", min=1, max=256)
    ] = 8,
    speed: Annotated[
        float | None,
        _option(
            "--speed",
            _PACE,
            "1 is the recorded pace, 10 is ten times as fast; as fast as possible if left out.",
        ),
    ] = None,
    closed: Annotated[
        bool,
        _option("--closed", _PACE, "Each user goes through one session after another."),
    ] = False,
    daemon: Annotated[
        str,
        _option(
            "--daemon",
            _DAEMON,
            "unix:/path, /path or host:port; the default socket if left out.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = "",
    embedded: Annotated[
        bool, _option("--embedded", _DAEMON, "Start a daemon for this replay, and stop it after.")
    ] = False,
    device: Annotated[
        str, _option("--device", _DAEMON, "Size of the embedded daemon's device tier; 0 is none.")
    ] = "0",
    host: Annotated[
        str, _option("--host", _DAEMON, "Size of the embedded daemon's host tier.")
    ] = "2GiB",
    disk: Annotated[
        str, _option("--disk", _DAEMON, "Size of the embedded daemon's disk tier; 0 is none.")
    ] = "8GiB",
    directory: Annotated[
        Path | None,
        _option(
            "--directory",
            _DAEMON,
            "Where the embedded daemon keeps blocks, also for the next replay; a temporary one "
            "if left out.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        _option("--set", _DAEMON, "A setting of the embedded daemon.", metavar="KEY=VALUE"),
    ] = None,
    deadline: Annotated[
        float, _option("--deadline", _PACE, "Seconds that a fetch may take.", min=0.001)
    ] = 30.0,
    route: Annotated[
        str, _option("--route", _PACE, "How blocks on disk come: auto, staged or direct.")
    ] = "auto",
    json_file: Annotated[
        Path | None, _option("--json", _REPORTS, "Write the figures there.", metavar="FILE")
    ] = None,
    html_file: Annotated[
        Path | None, _option("--html", _REPORTS, "Write a page with charts there.", metavar="FILE")
    ] = None,
) -> None:
    """Replay traces of agents through a daemon, verify every byte, and report hits and speed.

    For each request the longest prefix is fetched and the rest published, with sessions side by
    side. What blocks hold follows from their keys, so any wrong byte is noticed and counted.
    """
    bench_or_end()
    if speed is not None and not (speed > 0 and math.isfinite(speed)):
        refuse(f"--speed is {speed}", "give a factor above 0, or leave it out")
    if route not in ("auto", "staged", "direct"):
        refuse(f"--route is {route!r}", "say auto, staged or direct")
    if daemon and embedded:
        refuse("--daemon and --embedded exclude each other", "give one of them")
    for file in (json_file, html_file):
        if file is not None and not file.absolute().parent.is_dir():
            refuse(f"{file}: no such directory", "create it first, or write elsewhere")
    from tierd_bench.replay.agenda import Loop, Pace
    from tierd_bench.replay.driver import Drive
    from tierd_bench.replay.plan import Plan, Running
    from tierd_bench.replay.user import Terms

    pace = Pace(speed or math.inf, Loop.CLOSED if closed else Loop.OPEN)
    own = _embedded(device, host, disk, directory, override or []) if embedded else None
    plan = Plan(
        bytes_per_token=_size("--bytes-per-token", bytes_per_token),
        drive=Drive(users, pace, Terms(deadline_s=deadline, route=cast("Route", route))),
        daemon=own or Running(daemon),
        version=version("tierd"),
        config={
            "traces": [str(path) for path in traces],
            "format": format,
            "sessions": sessions,
            "requests": requests,
            "tokenizer": tokenizer,
            "daemon": "embedded" if embedded else daemon or "default socket",
            "set": override or [],
        },
    )
    read = _read(traces, format, block_tokens, sessions, requests, tokenizer)
    _show(_replay(read, plan), json_file, html_file)


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


def _embedded(
    device: str, host: str, disk: str, directory: Path | None, overrides: list[str]
) -> "Embedded":
    from tierd_bench.replay.embedded import EmbeddedSizes
    from tierd_bench.replay.plan import Embedded

    if any(setting.partition("=")[0].strip() == "listen.unix" for setting in overrides):
        refuse("an embedded daemon has a socket of its own", "leave --set listen.unix out")
    sizes = EmbeddedSizes(
        _size("--device", device, least=0), _size("--host", host), _size("--disk", disk, least=0)
    )
    # Refuses what the daemon would, before the trace is read.
    settings(
        None,
        [
            f"tiers.region_bytes={PAGE_BYTES}",
            f"tiers.device.bytes={sizes.device}",
            f"tiers.host.bytes={sizes.host}",
            f"tiers.disk.bytes={sizes.disk}",
            f"tiers.disk.directories={(directory or Path.cwd()).absolute()}",
            *overrides,
        ],
    )
    return Embedded(sizes, directory, tuple(overrides))


def _replay(trace: "Trace", plan: "Plan") -> "Replayed":
    from tierd_bench.replay.embedded import DaemonFailed
    from tierd_bench.replay.plan import TooLong, replay_trace

    # A service manager's way to say Ctrl-C: the embedded daemon has to be stopped either way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _progress_bar(len(trace.requests)) as tell:
            return replay_trace(trace, plan, tell)
    except TooLong as error:
        fitting = plan.bytes_per_token * error.allowed_bytes // error.needed_bytes
        fewer = f"use --bytes-per-token {fitting} or less, or " if fitting else ""
        refuse(str(error), f"{fewer}make the tiers in memory smaller; nothing was replayed")
    except InvalidRequest as error:
        refuse(str(error), "correct --daemon or --bytes-per-token; nothing was replayed")
    except DaemonFailed as error:
        fail(str(error), "remedy what it says; --device, --host, --disk and --set shape it")
    except TierdError as error:
        fail(str(error), "start the daemon, say with --daemon where it is, or use --embedded")
    except OSError as error:
        fail(str(error), "check the path and who owns it; --directory may name another")


def _show(replayed: "Replayed", json_file: Path | None, html_file: Path | None) -> None:
    from tierd_bench.replay.files import write_json, write_text
    from tierd_bench.replay.table import render_table

    report = replayed.report
    out.print(render_table(report))
    try:
        if json_file is not None:
            asyncio.run(write_json(json_file, report.as_json()))
            out.print(f"figures: {json_file}")
        if html_file is not None:
            from tierd_bench.replay.page import render_page

            page = render_page(report, replayed.driven, replayed.sampler)
            asyncio.run(write_text(html_file, page))
            out.print(f"page with charts: {html_file}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "free the path; the figures are above")
    if replayed.failure:
        fail(replayed.failure, "report its log with the figures; they are of what was reached")
    if report.corrupt_blocks:
        fail(
            f"{report.corrupt_blocks} blocks came back with wrong bytes",
            "stop using this daemon, run `tierd check` on its directories, keep them and its log, "
            "and report what is above",
        )
    if report.interrupted:
        raise typer.Exit(_INTERRUPTED)


@contextmanager
def _progress_bar(requests: int) -> "Iterator[Callable[[Progress], None]]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("replaying"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("requests, hit rate {task.fields[rate]}, {task.fields[speed]}"),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=requests, rate="-", speed="-")

        def tell(done: "Progress") -> None:
            rate = f"{100 * done.hit / max(1, done.asked):.1f} %"
            speed = f"{done.fetched_bytes / max(1, done.elapsed_ns):.2f} GB/s"
            bar.update(task, completed=done.requests, rate=rate, speed=speed)

        yield tell


def _size(option: str, text: str, least: int = 1) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = -1
    if size < least:
        refuse(f"{option} is {text!r}", "write a size, such as 8GiB or 131072")
    return size
