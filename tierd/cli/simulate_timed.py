"""The timed part of `tierd simulate`: what its options mean, and running it."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from tierd.cli.console import err, refuse
from tierd.core.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tierd_bench.planning.architecture import Architecture
    from tierd_bench.simulate.prefill import Prefill
    from tierd_bench.simulate.timed import Setting, TimedRun
    from tierd_bench.simulate.timed_daemon import Machine
    from tierd_bench.traces import Trace
    from tierd_client.splitting import Route


def _option(flag: str, about: str, **more: Any) -> Any:
    return typer.Option(flag, help=about, rich_help_panel="Timed, with --host", **more)


Host = Annotated[
    str | None,
    _option("--host", "Size of the host tier. Runs the daemon's own store on a virtual clock."),
]
Disk = Annotated[str, _option("--disk", "Size of the disk tier; 0 is none.")]
Device = Annotated[str, _option("--device", "Size of the device tier; 0 is none.")]
Admission = Annotated[
    str,
    _option("--admission", "What goes to disk: always, second_touch, frequency or endurance."),
]
WriteBudget = Annotated[
    str, _option("--write-bytes-per-day", "The disk's write budget; 0 is no limit.")
]
Users = Annotated[int, _option("--users", "Requests under way at once, at most.", min=1, max=4096)]
Engines = Annotated[int, _option("--engines", "Prompts computed at once.", min=1, max=4096)]
Speed = Annotated[
    float | None,
    _option("--speed", "1 is the recorded pace; as fast as possible if left out."),
]
Closed = Annotated[bool, _option("--closed", "Each user goes through one session after another.")]
DiskRoute = Annotated[str, _option("--route", "From disk: auto, staged or direct.")]
Model = Annotated[
    str | None,
    _option(
        "--model",
        "Whose prefill is computed, from its FLOPs; its KV in place of --bytes-per-token. As in "
        "`tierd plan`.",
        metavar="NAME|FILE",
    ),
]
Tflops = Annotated[float | None, _option("--tflops", "Peak TFLOP/s of an engine; 989.", min=0.001)]
Utilisation = Annotated[
    float | None, _option("--utilisation", "Share of it that prefill reaches; 0.5.", max=1)
]
TokensPerS = Annotated[
    float | None,
    _option("--prefill-tokens-per-s", "Measured prefill, in place of --model.", min=0.001),
]
HostBandwidth = Annotated[
    str | None, _option("--host-bandwidth", "Host memory to engine, a second: 20GB.")
]
DiskBandwidth = Annotated[
    str | None, _option("--disk-bandwidth", "Reads of the disk, a second: 6GB.")
]
DiskWrites = Annotated[
    str | None, _option("--disk-write-bandwidth", "Writes to the disk, a second: 4GB.")
]


@dataclass(frozen=True, slots=True)
class Timed:
    """The options, as given."""

    host: str | None = None
    disk: str = "0"
    device: str = "0"
    admission: str = "always"
    write_budget: str = "0"
    users: int = 8
    engines: int = 1
    speed: float | None = None
    closed: bool = False
    route: str = "auto"
    model: str | None = None
    tflops: float | None = None
    utilisation: float | None = None
    tokens_per_s: float | None = None
    host_bandwidth: str | None = None
    disk_bandwidth: str | None = None
    disk_writes: str | None = None


def timed_setting(given: Timed, token_bytes: int) -> "Setting | None":
    """Return how to simulate; None if no size of a host tier was given."""
    if given.host is None:
        if given != Timed():
            refuse("tiers and machine say nothing without --host", "add --host 64GiB, say")
        return None
    from tierd_bench.replay.agenda import Loop, Pace
    from tierd_bench.replay.embedded import EmbeddedSizes
    from tierd_bench.replay.user import Terms
    from tierd_bench.simulate.timed import Setting

    _check(given)
    sizes = EmbeddedSizes(
        _size("--device", given.device, least=0),
        _size("--host", given.host),
        _size("--disk", given.disk, least=0),
    )
    architecture = _architecture(given.model) if given.model else None
    if architecture is not None:
        token_bytes = architecture.token_bytes(architecture.dtype)
    return Setting(
        sizes,
        token_bytes,
        admission=given.admission,
        write_bytes_per_day=_size("--write-bytes-per-day", given.write_budget, least=0),
        users=given.users,
        engines=given.engines,
        pace=Pace(given.speed or math.inf, Loop.CLOSED if given.closed else Loop.OPEN),
        terms=Terms(route=cast("Route", given.route)),
        machine=_machine(given),
        prefill=_prefill(given, architecture),
    )


def run_timed(trace: "Trace", setting: "Setting", policies: "Sequence[str]") -> "list[TimedRun]":
    """Simulate the trace once for each policy."""
    from tierd.core.errors import InvalidRequest
    from tierd_bench.simulate.timed import simulate_timed

    runs = []
    try:
        with _progress_bar(len(trace.requests) * len(policies)) as tell:
            for number, policy in enumerate(policies):
                before = number * len(trace.requests)
                one = replace(setting, policy=policy)
                runs.append(simulate_timed(trace, one, partial(_tell_on, tell, before)))
    except InvalidRequest as error:
        refuse(str(error), "correct --bytes-per-token or --block-tokens")
    return runs


def _tell_on(tell: "Callable[[int], None]", before: int, requests: int) -> None:
    tell(before + requests)


def _check(given: Timed) -> None:
    from tierd_policies.registry import UnknownPolicy, admission

    if given.speed is not None and not (given.speed > 0 and math.isfinite(given.speed)):
        refuse(f"--speed is {given.speed}", "give a factor above 0, or leave it out")
    if given.route not in ("auto", "staged", "direct"):
        refuse(f"--route is {given.route!r}", "say auto, staged or direct")
    try:
        admission(given.admission)
    except UnknownPolicy as error:
        refuse(f"--admission: {error}", "correct the name")
    if given.admission == "endurance" and given.write_budget == "0":
        refuse("--admission endurance keeps within a budget", "add --write-bytes-per-day 1TB, say")
    if given.model and given.tokens_per_s:
        refuse("--model and --prefill-tokens-per-s exclude each other", "give one of them")
    if given.utilisation is not None and given.utilisation <= 0:
        refuse(f"--utilisation is {given.utilisation:g}", "give a share above 0, such as 0.5")
    if (given.tflops or given.utilisation) and not given.model:
        refuse("--tflops and --utilisation go with --model", "name a model, or leave them out")


def _machine(given: Timed) -> "Machine":
    from tierd_bench.simulate.media import DISK, HOST
    from tierd_bench.simulate.timed import MACHINE

    host = _rate("--host-bandwidth", given.host_bandwidth, HOST.read_bytes_per_s)
    reads = _rate("--disk-bandwidth", given.disk_bandwidth, DISK.read_bytes_per_s)
    writes = _rate("--disk-write-bandwidth", given.disk_writes, DISK.write_bytes_per_s)
    media = dict(MACHINE.media)
    media["host"] = replace(HOST, read_bytes_per_s=host)
    media["disk"] = replace(DISK, read_bytes_per_s=reads, write_bytes_per_s=writes)
    return replace(MACHINE, media=media)


def _prefill(given: Timed, architecture: "Architecture | None") -> "Prefill":
    from tierd_bench.planning.machine import TFLOPS, UTILISATION, Computing
    from tierd_bench.simulate.prefill import NoPrefill, PrefillRate

    if given.tokens_per_s is not None:
        return PrefillRate(given.tokens_per_s)
    if architecture is None:
        return NoPrefill()
    reached = (given.tflops or TFLOPS) * 1e12 * (given.utilisation or UTILISATION)
    return Computing(architecture, reached)


def _architecture(model: str) -> "Architecture":
    from tierd_bench.planning.config import read_config
    from tierd_bench.planning.errors import PlanError
    from tierd_bench.planning.models import model_named

    try:
        path = Path(model)
        return read_config(path) if "/" in model or path.exists() else model_named(model)
    except PlanError as error:
        refuse(error.found, error.remedy)


def _rate(option: str, text: str | None, usual: float) -> float:
    return usual if text is None else float(_size(option, text))


def _size(option: str, text: str, least: int = PAGE_BYTES) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = -1
    if size < least or 0 < size < PAGE_BYTES:
        refuse(f"{option} is {text!r}", "write a size, such as 8GiB")
    return size


@contextmanager
def _progress_bar(requests: int) -> "Iterator[Callable[[int], None]]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("simulating with a clock"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=requests)
        yield lambda done: bar.update(task, completed=done)
