"""The command line of the measurement of times to first token."""

import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from tierd.core.errors import TierdError
from tierd.core.units import GiB, MiB
from tierd_bench.bench.disk_limits import DEPTHS, disk_limit
from tierd_bench.ttft.page import render_page
from tierd_bench.ttft.prompts import QUESTION_TOKENS
from tierd_bench.ttft.report import TtftReport, make_report
from tierd_bench.ttft.rounds import Tell, Workload, run_rounds
from tierd_bench.ttft.stores import ABOUT, KINDS, USUAL, Setting
from tierd_bench.ttft.table import render_table

_MODEL: Final = Path.home() / ".cache" / "tierd" / "smollm2-135m-instruct"
"""Where the example agent keeps its weights."""

_LIMIT_BLOCK_BYTES: Final = 2 * MiB
_LIMIT_BYTES: Final = 256 * MiB
_TURN_ROUNDS_MAX: Final = 3
_DISK_BYTES: Final = 12 * GiB

app = typer.Typer(add_completion=False)


@app.command()
def main(
    model: Annotated[
        Path, typer.Option(help="Folder of a model as Hugging Face writes them.")
    ] = _MODEL,
    python: Annotated[
        Path, typer.Option(help="Interpreter of an environment with vLLM, transformers and tierd.")
    ] = Path(".venv-vllm/bin/python"),
    lmcache_python: Annotated[
        Path | None, typer.Option(help="The same with LMCache; left out, so is LMCache.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="Lengths of contexts, in tokens. vLLM reuses blocks of 128.")
    ] = "128,256,512,1k,2k,4k,8k",
    question: Annotated[
        int, typer.Option(help="Tokens after each context, always computed.", min=1)
    ] = QUESTION_TOKENS,
    rounds: Annotated[int, typer.Option(help="Of every length.", min=1)] = 5,
    turns: Annotated[
        int,
        typer.Option(
            help="Of a conversation; 0 for none. As many conversations as rounds, "
            f"{_TURN_ROUNDS_MAX} at most, for each tier: a daemon restarts before each turn "
            "that is to come from its disk.",
            min=0,
        ),
    ] = 6,
    turn_tokens: Annotated[int, typer.Option(help="That each turn adds.", min=1)] = 512,
    only: Annotated[str, typer.Option(help=f"Stores to measure: {', '.join(ABOUT)}.")] = "",
    without: Annotated[str, typer.Option(help="Stores to leave out.")] = "",
    cache_gib: Annotated[int, typer.Option(help="Of each engine's own cache.", min=1)] = 1,
    directory: Annotated[Path, typer.Option(help="On the disk to measure.")] = Path("/var/tmp"),
    seed: Annotated[int, typer.Option(help="Of the prompts.", min=0)] = 0,
    append: Annotated[Path | None, typer.Option(help="Add a line a figure to it.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the figures as charts.")] = None,
) -> None:
    """Measure times to first token: computed, hit locally, and from each store's tiers.

    Stores of vLLM are compared with vLLM's own cache, that of transformers with its own.
    """
    console = Console()
    names = _stores(only, without, lmcache_python)
    if not (model / "config.json").exists():
        raise typer.BadParameter(
            f"{model} has no config.json: name a folder that save_pretrained wrote, or have "
            "client/examples/agent.py make this one of SmolLM2, with --embedded"
        )
    workload = Workload(
        prompts=[_tokens(each) for each in prompts.split(",")],
        rounds=rounds,
        turns=turns,
        turn_rounds=min(rounds, _TURN_ROUNDS_MAX),
        turn_first=2 * turn_tokens,
        turn_each=turn_tokens,
        question=question,
        seed=seed,
    )
    free = shutil.disk_usage(directory).free
    if free < _DISK_BYTES:
        raise typer.BadParameter(f"{directory} has {free // GiB} GiB free, of 12 needed")
    try:
        with tempfile.TemporaryDirectory(prefix="tierd-ttft-", dir=directory) as made:
            other = lmcache_python or python
            tokens_max = workload.tokens_max
            setting = Setting(python, other, model.absolute(), tokens_max, cache_gib, Path(made))
            with console.status("starting engines") as status:
                reports = _measure(names, setting, workload, status.update)
    except TierdError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from error
    for report in reports:
        console.print()
        console.print(render_table(report))
    if append is not None:
        with append.open("a") as file:
            lines = [line for report in reports for line in report.as_lines()]
            file.writelines(json.dumps(line) + "\n" for line in lines)
    if html is not None:
        html.write_text(render_page(reports), encoding="utf-8")


def _measure(
    names: list[str], setting: Setting, workload: Workload, tell: Tell
) -> list[TtftReport]:
    """Run one kind of engine after the other, so that no more than its stores are in memory."""
    reports = []
    with disk_limit(setting.directory, _LIMIT_BLOCK_BYTES, _LIMIT_BYTES) as limit:

        def disk_rate() -> float:
            return max(limit.bytes_per_s("read", depth) for depth in DEPTHS)

        for kind in KINDS:
            if wanted := [name for name in names if name in kind.stores]:
                with ExitStack() as stack:
                    group = kind.open(wanted, setting, stack)
                    samples = run_rounds(workload, group, disk_rate, tell)
                    engine = group.facts.engine
                    reports.append(make_report(samples, setting.model.name, engine, workload.seed))
    return reports


def _stores(only: str, without: str, lmcache_python: Path | None) -> list[str]:
    wanted = [name for name in only.split(",") if name] or list(USUAL)
    left_out = [name for name in without.split(",") if name]
    for name in [*wanted, *left_out]:
        if name not in ABOUT:
            known = "; ".join(f"{name}: {about}" for name, about in ABOUT.items())
            raise typer.BadParameter(f"there is no store {name!r}. {known}")
    if lmcache_python is None:
        if "lmcache" in only.split(","):
            raise typer.BadParameter("name an interpreter that has LMCache with --lmcache-python")
        left_out.append("lmcache")
    if not (names := [name for name in wanted if name not in left_out]):
        raise typer.BadParameter("no store is left to measure")
    return names


def _tokens(text: str) -> int:
    digits, thousands = (text[:-1], 1024) if text.endswith("k") else (text, 1)
    if not digits.isdecimal() or int(digits) == 0:
        raise typer.BadParameter(f"--prompts: {text!r} is no number of tokens, such as 512 or 4k")
    return int(digits) * thousands


if __name__ == "__main__":
    app()
