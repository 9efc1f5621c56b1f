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
from tierd_bench.ttft.prompts import ANSWER_TOKENS, QUESTION_TOKENS
from tierd_bench.ttft.report import make_report
from tierd_bench.ttft.rounds import Course, run_rounds
from tierd_bench.ttft.table import render_table
from tierd_bench.ttft.ways import ABOUT, STORES, USUAL, Setting, open_stores

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
        Path, typer.Option(help="Interpreter of an environment with vLLM and tierd.")
    ] = Path(".venv-vllm/bin/python"),
    lmcache_python: Annotated[
        Path | None, typer.Option(help="The same with LMCache; left out, so is LMCache.")
    ] = None,
    prompts: Annotated[str, typer.Option(help="Lengths of contexts, in tokens.")] = "1k,2k,4k,8k",
    question: Annotated[
        int, typer.Option(help="Tokens after each context, always computed.", min=1)
    ] = QUESTION_TOKENS,
    rounds: Annotated[int, typer.Option(help="Of every length.", min=1)] = 5,
    turns: Annotated[int, typer.Option(help="Of a conversation; 0 for none.", min=0)] = 6,
    turn_tokens: Annotated[int, typer.Option(help="That each turn adds.", min=1)] = 512,
    only: Annotated[str, typer.Option(help=f"Stores to measure: {', '.join(STORES)}.")] = "",
    without: Annotated[str, typer.Option(help="Stores to leave out.")] = "",
    cache_gib: Annotated[int, typer.Option(help="Of each engine's own cache.", min=1)] = 1,
    directory: Annotated[Path, typer.Option(help="On the disk to measure.")] = Path("/var/tmp"),
    seed: Annotated[int, typer.Option(help="Of the prompts.", min=0)] = 0,
    append: Annotated[Path | None, typer.Option(help="Add a line a figure to it.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the figures as charts.")] = None,
) -> None:
    """Measure times to first token: computed, hit locally, and from each store's tiers."""
    console = Console()
    names = _stores(only, without, lmcache_python)
    lengths = [_tokens(each) for each in prompts.split(",")]
    if not (model / "config.json").exists():
        raise typer.BadParameter(
            f"{model} has no config.json: name a folder that save_pretrained wrote, or have "
            "client/examples/agent.py make this one of SmolLM2, with --embedded"
        )
    conversation = 2 * turn_tokens + turn_tokens * max(0, turns - 1)
    course = Course(
        prompts=lengths,
        rounds=rounds,
        turns=turns,
        turn_rounds=min(rounds, _TURN_ROUNDS_MAX),
        turn_first=2 * turn_tokens,
        turn_each=turn_tokens,
        question=question,
        seed=seed,
    )
    longest = max(*lengths, conversation if turns else 0) + question + ANSWER_TOKENS
    free = shutil.disk_usage(directory).free
    if free < _DISK_BYTES:
        raise typer.BadParameter(f"{directory} has {free // GiB} GiB free, of 12 needed")
    try:
        with ExitStack() as stack:
            made = tempfile.TemporaryDirectory(prefix="tierd-ttft-", dir=directory)
            place = Path(stack.enter_context(made))
            other = lmcache_python or python
            setting = Setting(python, other, model.absolute(), longest, cache_gib, place)
            status = stack.enter_context(console.status("starting engines"))
            stores = open_stores(setting, names, stack)
            limit = stack.enter_context(disk_limit(place, _LIMIT_BLOCK_BYTES, _LIMIT_BYTES))

            def disk() -> float:
                return max(limit.bytes_per_s("read", depth) for depth in DEPTHS)

            samples = run_rounds(course, stores, disk, status.update)
            report = make_report(samples, model.name, stores[0].facts.engine, seed)
    except TierdError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from error
    console.print()
    console.print(render_table(report))
    if append is not None:
        with append.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in report.as_lines())
    if html is not None:
        html.write_text(render_page(report), encoding="utf-8")


def _stores(only: str, without: str, lmcache_python: Path | None) -> list[str]:
    wanted = [name for name in only.split(",") if name] or list(USUAL)
    left_out = [name for name in without.split(",") if name]
    for name in [*wanted, *left_out]:
        if name not in STORES:
            known = "; ".join(f"{name}: {about}" for name, about in ABOUT.items())
            raise typer.BadParameter(f"there is no store {name!r}. {known}")
    if lmcache_python is None:
        if "lmcache" in only.split(","):
            raise typer.BadParameter("name an interpreter that has LMCache with --lmcache-python")
        left_out.append("lmcache")
    return [name for name in wanted if name not in left_out]


def _tokens(text: str) -> int:
    digits, thousands = (text[:-1], 1024) if text.endswith("k") else (text, 1)
    if not digits.isdecimal() or int(digits) == 0:
        raise typer.BadParameter(f"--prompts: {text!r} is no number of tokens, such as 512 or 4k")
    return int(digits) * thousands


if __name__ == "__main__":
    app()
