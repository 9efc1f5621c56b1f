"""The `tierd` command: what it is called with, and which file answers.

Each command has a file of its own, which imports what is slow to load only when it runs.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from tierd.cli.bench import bench
from tierd.cli.check import check
from tierd.cli.config import config
from tierd.cli.console import out
from tierd.cli.plan import plan
from tierd.cli.replay import replay
from tierd.cli.serve import serve
from tierd.cli.simulate import simulate
from tierd.cli.simulate_cluster import simulate_cluster
from tierd.cli.status import status
from tierd.cli.top import top
from tierd.cli.trace import trace

app = typer.Typer(
    name="tierd",
    help="Keeps the KV cache of LLM inference in tiers, and finds it again by prefix.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(config)
app.command()(check)
app.command()(status)
app.command()(top)
app.command()(replay)
app.command()(bench)
app.command()(simulate)
app.command()(plan)
app.command()(simulate_cluster)
app.add_typer(trace)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"tierd {version('tierd')}")
        raise typer.Exit


@app.callback()
def tierd(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Keeps the KV cache of LLM inference in tiers, and finds it again by prefix."""
