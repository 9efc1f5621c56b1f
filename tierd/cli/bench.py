"""`tierd bench`: how fast tierd is, beside the limit of the machine it runs on."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierd.cli.console import err, fail, out, refuse
from tierd.cli.extras import bench_or_end
from tierd.core.errors import TierdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tierd_bench.bench.catalogue import Measure
    from tierd_bench.bench.run import BenchReport
    from tierd_bench.bench.sizes import Sizes


def bench(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this row, or all that begin so. May be repeated. Rows of a million blocks"
            " (recovery) run only if named.",
        ),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs of each row; 15 in memory and 5 on disk if left out."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="On the disk to measure; where temporary files go if left out."),
    ] = None,
    append: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add one line of JSON a row there.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Draw the figures there.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Only show that each row works; figures mean nothing.")
    ] = False,
) -> None:
    """Measure fetching, publishing, matching and the disk, each beside the machine's own limit.

    Daemons are started for it and stopped after. tierd and the limit take turns, so that a busy
    machine slows both.
    """
    bench_or_end()
    from tierd_bench.bench.catalogue import catalogue, usual
    from tierd_bench.bench.sizes import FULL, SMOKE

    for file in (json_file, append, html):
        if file is not None and not file.absolute().parent.is_dir():
            refuse(f"{file}: no such directory", "create it first, or write elsewhere")
    if directory is not None and not directory.is_dir():
        refuse(f"{directory}: no such directory", "create it first, or measure elsewhere")
    sizes = SMOKE if smoke else FULL
    if runs is not None:
        sizes = replace(sizes, host_runs=runs, disk_runs=runs, one_disk_runs=runs)
    measures = catalogue(sizes)
    if only:
        measures = _choose(measures, only)
    elif not smoke:
        measures = usual(measures)
    _show(_run(measures, sizes, directory), json_file, append, html)


def _choose(measures: "list[Measure]", only: list[str]) -> "list[Measure]":
    from tierd_bench.bench.catalogue import chosen

    wanted: set[str] = set()
    for name in only:
        found = chosen(measures, name)
        if not found:
            names = ", ".join(measure.name for measure in measures)
            refuse(f"no row is called {name!r}, or begins so", f"use some of: {names}")
        wanted.update(measure.name for measure in found)
    return [measure for measure in measures if measure.name in wanted]


def _run(measures: "list[Measure]", sizes: "Sizes", directory: Path | None) -> "BenchReport":
    from tierd_bench.bench.run import run_bench

    try:
        with _progress_bar(sum(measure.runs for measure in measures)) as tell:
            return run_bench(measures, sizes, directory, tell)
    except TierdError as error:
        fail(str(error), "run it again on a quiet machine with memory and disk to spare")
    except OSError as error:
        fail(str(error), "check the path; --directory may name another disk")


def _show(
    report: "BenchReport", json_file: Path | None, append: Path | None, html: Path | None
) -> None:
    from tierd_bench.bench.files import append_lines
    from tierd_bench.bench.page import render_page
    from tierd_bench.bench.table import render_table
    from tierd_bench.replay.files import write_json, write_text

    out.print(render_table(report))
    try:
        if json_file is not None:
            asyncio.run(write_json(json_file, report.as_json()))
            out.print(f"figures: {json_file}")
        if append is not None:
            asyncio.run(append_lines(append, report))
            out.print(f"figures added to: {append}")
        if html is not None:
            asyncio.run(write_text(html, render_page(report)))
            out.print(f"page: {html}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "free the path; the figures are above")


@contextmanager
def _progress_bar(runs: int) -> "Iterator[Callable[[str], None]]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("measuring"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("runs, {task.description}"),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting a daemon", total=runs)

        def tell(name: str) -> None:
            bar.update(task, advance=1, description=name)

        yield tell
