"""`tierd simulate-cluster`: past one machine, on paper."""

import asyncio
import math
import re
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tierd.cli.console import err, fail, out, refuse
from tierd.cli.extras import bench_or_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tierd_bench.cluster.report import Report
    from tierd_bench.cluster.studies import Setup

_CLUSTER = "Cluster"
_LOAD = "Load"
_REPORTS = "Reports"
_SHAPE = re.compile(r"([1-9]\d{0,3})[pP]([1-9]\d{0,3})[dD]")
_NODES_MAX = 1024


def _option(flag: str, panel: str, about: str, **more: Any) -> Any:
    return typer.Option(flag, help=about, rich_help_panel=panel, **more)


def simulate_cluster(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...",
            help="table1, equivalences, range, ablation, online, beyond, or run for one "
            "configuration; all but run if left out.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        _option(
            "--model",
            _CLUSTER,
            "ds-660b, ds-27b, qwen2.5-32b, gpt-oss-120b or qwen3-235b; each study has its own.",
        ),
    ] = None,
    prefill_nodes: Annotated[
        int | None,
        _option("--prefill-nodes", _CLUSTER, "With --decode-nodes.", min=1, max=_NODES_MAX),
    ] = None,
    decode_nodes: Annotated[
        int | None,
        _option("--decode-nodes", _CLUSTER, "With --prefill-nodes.", min=1, max=_NODES_MAX),
    ] = None,
    shapes: Annotated[
        str | None,
        _option(
            "--shapes",
            _CLUSTER,
            "Shapes that equivalences and range compare, such as 1P1D,1P2D,2P1D.",
        ),
    ] = None,
    gpus: Annotated[
        int,
        _option(
            "--gpus",
            _CLUSTER,
            "GPUs a node. The paper has 8; storage NIC and DRAM shrink or grow with them.",
            min=1,
            max=64,
        ),
    ] = 2,
    storage_share: Annotated[
        float | None,
        _option(
            "--storage-share",
            _CLUSTER,
            "A node's storage NIC over one GPU's compute NIC; an eighth of --gpus if left out.",
            min=0.001,
        ),
    ] = None,
    collective_share: Annotated[
        float,
        _option(
            "--collective-share",
            _CLUSTER,
            "Of each compute NIC, taken first by the model's own traffic.",
            min=0.0,
            max=0.95,
        ),
    ] = 0.0,
    systems: Annotated[
        str | None,
        _option(
            "--systems",
            _CLUSTER,
            "Of `run`: basic, layerwise, two-paths, dualpath, split, two-ended, oracle.",
        ),
    ] = None,
    trace: Annotated[
        str | None, _option("--trace", _LOAD, "32k, 48k or 64k; each study has its own.")
    ] = None,
    agents: Annotated[
        int | None,
        _option("--agents", _LOAD, "How many; each study has its own.", min=1, max=1_000_000),
    ] = None,
    seed: Annotated[int, _option("--seed", _LOAD, "Of the agents' trajectories.", min=0)] = 0,
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
    """Simulate prefill and decode nodes that load KV from storage, after the DualPath paper.

    Repeats what the paper reports, shows how close it comes, and goes on where the paper stops.
    Every figure is simulated.
    """
    bench_or_end()
    for file in (json_file, csv_file, html_file):
        if file is not None and not file.absolute().parent.is_dir():
            refuse(f"{file}: no such directory", "create it first, or write elsewhere")
    if (prefill_nodes is None) != (decode_nodes is None):
        refuse("--prefill-nodes and --decode-nodes go together", "give both, or neither")
    from tierd_bench.cluster.models import MODELS, Hardware
    from tierd_bench.cluster.report import STUDIES, USUAL
    from tierd_bench.cluster.studies import Setup
    from tierd_bench.cluster.systems import SYSTEMS
    from tierd_bench.cluster.workload import DATASETS

    chosen = [_known("study", name, STUDIES) for name in studies or USUAL]
    hardware = replace(Hardware.of_gpus(gpus), collective_share=collective_share)
    if storage_share is not None:
        if not math.isfinite(storage_share):
            refuse(f"--storage-share is {storage_share}", "give a finite number above 0")
        hardware = replace(hardware, storage_share=storage_share)
    setup = Setup(
        model=None if model is None else MODELS[_known("model", model, MODELS)],
        dataset=None if trace is None else DATASETS[_known("trace", trace, DATASETS)],
        shape=None
        if prefill_nodes is None or decode_nodes is None
        else (prefill_nodes, decode_nodes),
        shapes=_shapes(shapes),
        systems=tuple(_known("system", name, SYSTEMS) for name in _names(systems)),
        hardware=hardware,
        agents=agents,
        seed=seed,
    )
    config = {
        "studies": ", ".join(chosen),
        "model": model,
        "prefill_nodes": prefill_nodes,
        "decode_nodes": decode_nodes,
        "shapes": shapes,
        "gpus": gpus,
        "storage_share": hardware.storage_share,
        "collective_share": collective_share,
        "systems": systems,
        "trace": trace,
        "agents": agents,
        "seed": seed,
    }
    report = _run(list(dict.fromkeys(chosen)), setup, config)
    _show(report, json_file, csv_file, html_file)


def _known(kind: str, name: str, all_of: "Iterable[str]") -> str:
    names = list(all_of)
    if name not in names:
        refuse(f"no {kind} is called {name!r}", f"use one of: {', '.join(names)}")
    return name


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _shapes(text: str | None) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for name in _names(text):
        match = _SHAPE.fullmatch(name)
        if match is None:
            refuse(f"--shapes has {name!r}", "write shapes as prefill and decode nodes: 1P1D,2P4D")
        shape = int(match[1]), int(match[2])
        if max(shape) > _NODES_MAX:
            refuse(f"--shapes has {name!r}", f"at most {_NODES_MAX} nodes of a kind")
        found.append(shape)
    return tuple(dict.fromkeys(found))


def _run(studies: list[str], setup: "Setup", config: dict[str, Any]) -> "Report":
    from tierd_bench.cluster.report import STUDIES, Report

    begun = time.monotonic()
    done = []
    with _progress_bar(len(studies)) as (tell, next_study):
        for name in studies:
            done.append(STUDIES[name](setup, partial(_tell_of, tell, name)))
            next_study()
    return Report(version("tierd"), config, time.monotonic() - begun, done)


def _tell_of(tell: "Callable[[str], None]", study: str, about: str) -> None:
    tell(f"{study}: {about}")


@contextmanager
def _progress_bar(
    studies: int,
) -> "Iterator[tuple[Callable[[str], None], Callable[[], None]]]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("simulating"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("studies, {task.description}"),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=studies)

        def tell(about: str) -> None:
            bar.update(task, description=about)

        def next_study() -> None:
            bar.update(task, advance=1)

        yield tell, next_study


def _show(
    report: "Report", json_file: Path | None, csv_file: Path | None, html_file: Path | None
) -> None:
    from tierd_bench.cluster.table import render_report
    from tierd_bench.replay.files import write_json, write_text

    out.print(render_report(report))
    try:
        if json_file is not None:
            asyncio.run(write_json(json_file, report.as_json()))
            out.print(f"figures: {json_file}")
        if csv_file is not None:
            asyncio.run(write_text(csv_file, report.as_csv()))
            out.print(f"rows: {csv_file}")
        if html_file is not None:
            from tierd_bench.cluster.page import render_page

            asyncio.run(write_text(html_file, render_page(report)))
            out.print(f"page with charts: {html_file}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "free the path; the figures are above")
