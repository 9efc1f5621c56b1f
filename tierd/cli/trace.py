"""`tierd trace`: make synthetic agent traces."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tierd.cli.console import fail, out, refuse
from tierd.cli.extras import bench_or_end

trace = typer.Typer(name="trace", help="Make traces to replay.", no_args_is_help=True)


def _figure(flag: str, about: str, most: float | None = None) -> Any:
    return typer.Option(flag, help=about, show_default=False, min=0, max=most)


@trace.command()
def generate(
    to: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to; packed if it ends in .gz.")
    ],
    preset: Annotated[
        str, typer.Option(help="The figures to start from; a wrong one lists all.")
    ] = "agent-demo",
    sessions: Annotated[
        int | None, typer.Option(min=1, help="How many; the preset's if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same trace.")] = 0,
    block_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 64,
    turns: Annotated[float | None, _figure("--turns", "Mean turns of a session.")] = None,
    append: Annotated[float | None, _figure("--append", "Mean tokens that a turn adds.")] = None,
    output: Annotated[float | None, _figure("--output", "Mean tokens of an answer.")] = None,
    context: Annotated[
        float | None, _figure("--context", "Mean tokens that came before a turn.")
    ] = None,
    total: Annotated[
        float | None, _figure("--total", "Mean tokens of a whole session at its end.")
    ] = None,
    total_max: Annotated[int | None, _figure("--total-max", "Most tokens of any session.")] = None,
    hit_rate: Annotated[
        float | None, _figure("--hit-rate", "Share of prompt tokens that repeat, 0 to 1.", 1)
    ] = None,
    shared_prompt: Annotated[
        int | None, _figure("--shared-prompt", "Tokens of the head that all sessions share.")
    ] = None,
    compacted_ratio: Annotated[
        float | None,
        _figure("--compacted-ratio", "Share of sessions that compact once, 0 to 1.", 1),
    ] = None,
) -> None:
    """Write a synthetic agent trace, and say what came out against what was asked for."""
    bench_or_end()
    from tierd_bench.traces import PRESETS, TraceError
    from tierd_bench.traces import generate as generate_trace

    if preset not in PRESETS:
        refuse(f"no preset is called {preset!r}", f"use one of: {', '.join(PRESETS)}")
    given: dict[str, Any] = {
        "turns": turns,
        "append": append,
        "output": output,
        "context": context,
        "total": total,
        "total_max": total_max,
        "hit_rate": hit_rate,
        "shared_prompt": shared_prompt,
        "compacted_ratio": compacted_ratio,
    }
    known = PRESETS[preset]
    changed = {name: value for name, value in given.items() if value is not None}
    workload = replace(known.workload, **changed)
    try:
        made = generate_trace(workload, sessions or known.sessions, seed, block_tokens, preset)
        made.write(to)
    except TraceError as error:
        refuse(str(error), "change the figures; nothing was written")
    except OSError as error:
        fail(f"{to}: {error.strerror}", "check the path and who may write there")
    _report(made, workload)
    out.print(f"written to [bold]{to}[/]; replay it: tierd replay {to} --embedded")


def _report(made: Any, workload: Any) -> None:
    from rich.table import Table

    from tierd_bench.traces import summarize

    summary = summarize(made)
    table = Table("figure", "wanted", "made")
    wanted_and_made = (
        ("turns", workload.turns, summary.turns),
        ("append", workload.append, summary.append),
        ("output", workload.output, summary.output),
        ("context", workload.context, summary.context),
        ("total", workload.mean_total, summary.total),
    )
    for name, wanted, got in wanted_and_made:
        table.add_row(name, f"{wanted:,.1f}", f"{got:,.1f}")
    rate = workload.hit_rate
    table.add_row(
        "infinite-cache hit rate",
        "any" if rate is None else f"{100 * rate:.1f} %",
        f"{100 * summary.hit_rate:.1f} %",
    )
    out.print(table)
    out.print(
        f"{summary.requests:,} requests of {summary.sessions:,} sessions, "
        f"{summary.references:,} block references to {summary.unique_blocks:,} blocks"
    )
