"""`tierd check`: verify disk directories that no daemon has, repair them, rebuild the index."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from tierd.cli.console import err, fail, out, refuse
from tierd.cli.settings import ConfigOption, SetOption, settings
from tierd.core.errors import DirectoryInUse, FormatMismatch, InvalidRequest, TierOffline
from tierd.core.units import format_bytes

if TYPE_CHECKING:
    from tierd.transfer.check import Findings, Tell
    from tierd.transfer.survey import Problem

_LISTED: Final = 20
"""Problems printed one by one; `--json` has all."""

DirectoriesArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DIRECTORY",
        help="All directories of the daemon, in the order of tiers.disk.directories: the first "
        "has the index. Left out: those of the settings.",
        show_default=False,
    ),
]


def check(
    directory: DirectoriesArgument = None,
    config: ConfigOption = None,
    override: SetOption = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Drop records that do not verify, mend segment headers, and remove segments that "
            "no record names.",
        ),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Make a lost or damaged index anew from what the slots say."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Verify every record and every block of disk directories that no daemon uses.

    Run it as the user of the daemon, who must be able to open what it writes.

    Exit code 0: all is well, or has been repaired. 1: problems were found. 2: bad input.
    """
    if repair and rebuild:
        refuse("--repair and --rebuild together", "give --rebuild first, then check again")
    directories = _directories(directory or settings(config, override).tiers.disk.directories)
    from tierd.index.lock import DirectoryLock

    done: list[str] = []
    try:
        with ExitStack() as locks:
            for each in directories:
                locks.callback(DirectoryLock(each).release)
            findings, left = _run(directories, repair, rebuild, done)
    except DirectoryInUse as error:
        fail(f"{error.directory} is in use by {error.owner}", "stop the daemon, then check again")
    except FormatMismatch as error:
        refuse(f"{error.path}: {error.found}", error.remedy)
    except InvalidRequest as error:
        refuse(f"{error.field} are {error.value}", error.remedy)
    except TierOffline as error:
        fail(str(error), "look after the device or its permissions, then check again")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "look after the device, then check again")
    if as_json:
        out.print_json(json.dumps(_as_json(directories, findings, done, left)))
    else:
        _print(findings, done)
    if left:
        fail(f"problems: {len(left)}", _next_step(left, repair or rebuild))


def _directories(given: Sequence[Path]) -> list[Path]:
    if not given:
        refuse(
            "there is no directory to check",
            "name the daemon's directories, or its settings with --config",
        )
    for path in given:
        if not path.is_dir():
            refuse(f"{path} is no directory", "name directories of tiers.disk.directories")
    if len({path.resolve() for path in given}) < len(given):
        refuse("a directory is named twice", "name each once")
    holders = [path for path in given if (path / "index").exists()]
    if holders and holders[0] != given[0]:
        refuse(
            f"the index is in {holders[0]}, which is not the first directory",
            "name the directories in the order of tiers.disk.directories",
        )
    return list(given)


def _run(
    directories: Sequence[Path], repair: bool, rebuild: bool, done: list[str]
) -> "tuple[Findings, list[Problem]]":
    """Return what was found, and what of it is still wrong."""
    from tierd.transfer import check as checking
    from tierd.transfer.rebuild import rebuild as make_index

    with _progress_bar() as tell:
        findings = make_index(directories, tell) if rebuild else checking.check(directories, tell)
    if not repair and not rebuild:
        return findings, findings.problems
    if rebuild:
        records = sum(each.records for each in findings.namespaces)
        done.append(f"a new index with {records} records")
    done += checking.repair(directories, findings)
    return findings, checking.unrepaired(findings)


def _print(findings: "Findings", done: Sequence[str]) -> None:
    from rich.table import Table

    table = Table("namespace", box=None, header_style="bold")
    for heading in ("segments", "records", "good", "bytes good", "unrecorded", "damaged"):
        table.add_column(heading, justify="right")
    for each in findings.namespaces:
        table.add_row(
            escape(each.name or each.fingerprint),
            *(str(count) for count in (each.segments, each.records, each.good)),
            format_bytes(each.good * each.block_bytes),
            *(str(count) for count in (each.unrecorded, each.damaged)),
        )
    if findings.namespaces:
        out.print(table)
    for problem in findings.problems[:_LISTED]:
        slot = "" if problem.slot is None else f" slot {problem.slot}"
        what = f"{problem.kind} {problem.key}".strip()
        out.print(
            f"[yellow]{what}[/] {escape(problem.path)}{slot}: {escape(problem.cause)}",
            soft_wrap=True,
        )
    if len(findings.problems) > _LISTED:
        out.print(f"and {len(findings.problems) - _LISTED} more; --json lists all")
    for line in done:
        out.print(f"[green]done[/] {escape(line)}")
    if not findings.problems:
        out.print("no problems")


def _next_step(left: "Sequence[Problem]", tried: bool) -> str:
    kinds = {problem.kind for problem in left}
    if "index" in kinds:
        return "`tierd check --rebuild` with the same directories makes the index anew"
    if tried:
        return "move the files named above away; a daemon that starts does without them"
    if "stray" in kinds:
        return (
            "with the same directories, `tierd check --rebuild` finds the blocks of segments that "
            "the index does not know, `tierd check --repair` removes them"
        )
    return "`tierd check --repair` with the same directories drops what is not right"


def _as_json(
    directories: Sequence[Path],
    findings: "Findings",
    done: Sequence[str],
    left: "Sequence[Problem]",
) -> dict[str, object]:
    return {
        "directories": [str(path) for path in directories],
        "clean": not left,
        "namespaces": [asdict(each) for each in findings.namespaces],
        "problems": [asdict(each) for each in findings.problems],
        "left": len(left),
        "done": list(done),
    }


@contextmanager
def _progress_bar() -> "Iterator[Tell]":
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("checking"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("segments"),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda read, total: bar.update(task, completed=read, total=total)
