"""`tierd plan`: which tiers a model and a workload need, before buying them."""

import asyncio
import math
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from tierd.cli.console import err, fail, out, refuse
from tierd.cli.extras import bench_or_end
from tierd.core.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tierd_bench.planning.architecture import Architecture
    from tierd_bench.planning.plan import Wish
    from tierd_bench.planning.report import Report
    from tierd_bench.planning.workload import Demand
    from tierd_bench.traces import Trace

_INTERRUPTED = 130
_MODEL = "Model"
_TRACES = "Trace"
_TIERS = "Tiers"
_SPEED = "Speed"
_REPORTS = "Reports"
_HOST = "64GiB"
_DISK = "2TiB"
_BLOCK_TOKENS = 64


def _option(flag: str, panel: str, about: str, **more: Any) -> Any:
    return typer.Option(flag, help=about, rich_help_panel=panel, show_default=False, **more)


def plan(
    model: Annotated[
        str | None,
        _option(
            "--model",
            _MODEL,
            "A well-known one, such as llama-3-8b (a wrong name lists all), or a config.json.",
            metavar="NAME|FILE",
        ),
    ] = None,
    bytes_per_token: Annotated[
        str | None,
        _option("--bytes-per-token", _MODEL, "In place of --model: KV a token, all ranks."),
    ] = None,
    active_params: Annotated[
        float | None,
        _option("--active-params", _MODEL, "With --bytes-per-token: weights a token meets, 8e9."),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        _option("--kv-dtype", _MODEL, "bf16, fp16, fp8, int8 or fp32; the model's if left out."),
    ] = None,
    tensor_parallel: Annotated[
        int, _option("--tp", _MODEL, "Tensor-parallel ranks, a GPU each; 1.", min=1, max=64)
    ] = 1,
    traces: Annotated[
        list[Path] | None,
        _option("--trace", _TRACES, "File, folder or tar archive; may be repeated."),
    ] = None,
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
        str, _option("--tokenizer", _TRACES, "Of traces that are text; cl100k_base.")
    ] = "cl100k_base",
    requests_per_day: Annotated[
        float | None,
        _option("--requests-per-day", _TRACES, "In place of the trace's own pace.", min=0.001),
    ] = None,
    host: Annotated[str | None, _option("--host", _TIERS, f"Host memory; {_HOST}.")] = None,
    disk: Annotated[str | None, _option("--disk", _TIERS, f"Disk; {_DISK}, 0 is none.")] = None,
    policy: Annotated[
        str,
        _option("--policy", _TIERS, "Eviction of these tiers: chain_lru, or as in `simulate`."),
    ] = "chain_lru",
    hit_rate: Annotated[
        list[float] | None,
        _option(
            "--hit-rate",
            _TIERS,
            "Find the smallest tiers that reach it, such as 0.9; may be repeated.",
        ),
    ] = None,
    dwpd: Annotated[
        float | None,
        _option("--dwpd", _TIERS, "Endurance: drive writes a day for five years; 1.", min=0.001),
    ] = None,
    endurance_tbw: Annotated[
        float | None,
        _option("--endurance-tbw", _TIERS, "Endurance: terabytes written, in all.", min=0.001),
    ] = None,
    tflops: Annotated[
        float | None,
        _option("--tflops", _SPEED, "Peak TFLOP/s of a GPU; an H100's, 989.", min=0.001),
    ] = None,
    utilisation: Annotated[
        float | None,
        _option("--utilisation", _SPEED, "Share of it that prefill reaches; 0.5.", max=1),
    ] = None,
    tokens_per_s: Annotated[
        float | None,
        _option(
            "--prefill-tokens-per-s", _SPEED, "Measured prefill, in place of FLOPs.", min=0.001
        ),
    ] = None,
    host_bandwidth: Annotated[
        str | None,
        _option("--host-bandwidth", _SPEED, "Host memory to engine, a second: 25GB."),
    ] = None,
    disk_bandwidth: Annotated[
        str | None, _option("--disk-bandwidth", _SPEED, "Disk to engine, a second: 7GB.")
    ] = None,
    json_file: Annotated[
        Path | None, _option("--json", _REPORTS, "Write the figures there.", metavar="FILE")
    ] = None,
    html_file: Annotated[
        Path | None, _option("--html", _REPORTS, "Write a page with charts there.", metavar="FILE")
    ] = None,
) -> None:
    """Size tiers for a model: KV bytes, break-even lengths; with a trace also hit rates and TTFT.

    Without --trace only what follows from the model and the machine is shown. Every figure says
    whether it is computed or simulated, and everything assumed is listed at the end.
    """
    bench_or_end()
    for file in (json_file, html_file):
        if file is not None and not file.absolute().parent.is_dir():
            refuse(f"{file}: no such directory", "create it first, or write elsewhere")
    _check_rates(hit_rate or [], utilisation)
    _check_policy(policy)
    _check_numbers(
        {
            "--tflops": tflops,
            "--prefill-tokens-per-s": tokens_per_s,
            "--requests-per-day": requests_per_day,
            "--dwpd": dwpd,
            "--endurance-tbw": endurance_tbw,
            "--active-params": active_params,
        }
    )
    if dwpd is not None and endurance_tbw is not None:
        refuse("--dwpd and --endurance-tbw exclude each other", "give one of them")
    if tokens_per_s is not None and (tflops is not None or utilisation is not None):
        refuse(
            "--prefill-tokens-per-s excludes --tflops and --utilisation",
            "give the measured rate, or what to compute one from",
        )
    from tierd_bench.planning.endurance import Endurance
    from tierd_bench.planning.machine import Setting, Speeds
    from tierd_bench.planning.plan import Wish

    architecture = _architecture(
        model, bytes_per_token, active_params, tensor_parallel, tokens_per_s
    )
    dtype = _dtype(kv_dtype or architecture.dtype)
    host_bytes, disk_bytes = _size("--host", host or _HOST), _size("--disk", disk or _DISK, least=0)
    speeds = Speeds(
        tflops=tflops,
        utilisation=utilisation,
        tokens_per_s=tokens_per_s,
        host_bytes_per_s=_rate("--host-bandwidth", host_bandwidth),
        disk_bytes_per_s=_rate("--disk-bandwidth", disk_bandwidth),
    )
    trace = None
    if not traces:
        _refuse_without_trace(
            {
                "--hit-rate": hit_rate,
                "--requests-per-day": requests_per_day,
                "--dwpd": dwpd,
                "--endurance-tbw": endurance_tbw,
                "--sessions": sessions,
                "--requests": requests,
            }
        )
    else:
        trace = _read(traces, format, block_tokens, sessions, requests, tokenizer)
    tokens = block_tokens or (trace.block_tokens if trace else _BLOCK_TOKENS)
    whose = "the trace's own" if trace else "what engines often use"
    given = [
        Setting("KV dtype", dtype, "given" if kv_dtype else "the model's own"),
        Setting("block", f"{tokens} tokens", "given" if block_tokens else whose),
        Setting("host memory", host or _HOST, "given" if host else "a usual size"),
        Setting("disk", disk or _DISK, "given" if disk else "a usual size"),
    ]
    wish = Wish(
        architecture=architecture,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        block_tokens=tokens,
        host_bytes=host_bytes,
        disk_bytes=disk_bytes,
        speeds=speeds,
        endurance=Endurance(endurance_tbw, dwpd),
        policy=policy,
        hit_rates=tuple(hit_rate or ()),
        requests_per_day=requests_per_day,
        settings=tuple(given),
    )
    _show(_plan(wish, trace), json_file, html_file)


def _check_rates(hit_rates: list[float], utilisation: float | None) -> None:
    for rate in hit_rates:
        if not 0 < rate <= 1:
            refuse(f"--hit-rate is {rate:g}", "give a share above 0 and up to 1, such as 0.9")
    if utilisation is not None and not 0 < utilisation <= 1:
        refuse(f"--utilisation is {utilisation:g}", "give a share above 0 and up to 1, such as 0.5")


def _check_numbers(given: dict[str, float | None]) -> None:
    for option, number in given.items():
        if number is not None and not (number > 0 and math.isfinite(number)):
            refuse(f"{option} is {number:g}", "give a finite number above 0")


def _refuse_without_trace(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value:
            refuse(f"{option} says nothing without a trace", "add --trace FILE, or leave it out")


def _check_policy(name: str) -> None:
    from tierd_policies.registry import UnknownPolicy, eviction

    try:
        eviction(name)
    except UnknownPolicy as error:
        refuse(str(error), "correct --policy")


def _architecture(
    model: str | None,
    bytes_per_token: str | None,
    active_params: float | None,
    tensor_parallel: int,
    tokens_per_s: float | None,
) -> "Architecture":
    from tierd_bench.planning.config import by_hand, read_config
    from tierd_bench.planning.errors import PlanError
    from tierd_bench.planning.models import model_named

    if (model is None) == (bytes_per_token is None):
        refuse(
            "--model or --bytes-per-token: one of them, and not both",
            "name a model, such as --model llama-3-8b, or a config.json; or give its KV by hand",
        )
    if bytes_per_token is not None:
        if active_params is None and tokens_per_s is None:
            refuse(
                "with --bytes-per-token nothing says how long prefill takes",
                "add --active-params, such as 8e9, or --prefill-tokens-per-s",
            )
        size = _size("--bytes-per-token", bytes_per_token)
        return by_hand(size, active_params or 0.0, tensor_parallel)
    if active_params is not None:
        refuse("--active-params goes with --bytes-per-token", "leave it out; the model says it")
    assert model is not None, "one of both was given"
    try:
        # A name has no separator; a file or folder in this one may look like a name.
        path = Path(model)
        return read_config(path) if "/" in model or path.exists() else model_named(model)
    except PlanError as error:
        refuse(error.found, error.remedy)


def _dtype(name: str) -> str:
    from tierd_bench.planning.architecture import DTYPE_BYTES

    if name not in DTYPE_BYTES:
        refuse(f"--kv-dtype is {name!r}", f"say {', '.join(DTYPE_BYTES)}")
    return name


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


def _plan(wish: "Wish", trace: "Trace | None") -> "Report":
    from tierd_bench.planning.errors import PlanError
    from tierd_bench.planning.plan import make_plan

    try:
        demand = None if trace is None else _demand(wish, trace)
        with _progress_bar() as tell:
            return make_plan(version("tierd"), wish, demand, tell)
    except PlanError as error:
        refuse(error.found, error.remedy)
    except InvalidRequest as error:
        refuse(str(error), "correct --tp or --block-tokens")
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _demand(wish: "Wish", trace: "Trace") -> "Demand":
    from tierd_bench.planning.workload import Demand
    from tierd_bench.simulate.order import OVERLAP, SEED
    from tierd_bench.simulate.references import references_of
    from tierd_bench.simulate.report import facts_of

    with err.status("putting the requests in order"):
        references = references_of(trace, OVERLAP, SEED)
    if not references.unique_blocks:
        refuse(f"{trace.name}: no whole block in it", "use smaller ones: --block-tokens 16")
    token_bytes = wish.architecture.token_bytes(wish.dtype, wish.tensor_parallel)
    facts = facts_of(trace, references, token_bytes, OVERLAP, SEED)
    is_timed = all(request.arrival_s is not None for request in trace.requests)
    return Demand(references, facts, float(references.times_s[-1]), is_timed)


@contextmanager
def _progress_bar() -> "Iterator[Callable[[int, int], None]]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("simulating"),
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def _show(report: "Report", json_file: Path | None, html_file: Path | None) -> None:
    from tierd_bench.planning.table import render_report
    from tierd_bench.replay.files import write_json, write_text

    out.print(render_report(report))
    try:
        if json_file is not None:
            asyncio.run(write_json(json_file, report.as_json()))
            out.print(f"figures: {json_file}")
        if html_file is not None:
            from tierd_bench.planning.page import render_page

            asyncio.run(write_text(html_file, render_page(report)))
            out.print(f"page with charts: {html_file}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "free the path; the figures are above")


def _size(option: str, text: str, least: int = 1) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = -1
    if size < least:
        refuse(f"{option} is {text!r}", "write a size, such as 8GiB or 131072")
    return size


def _rate(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    rate = text.strip().removesuffix("/s")
    return float(_size(option, rate))
