"""`tierd serve`: run the daemon until it is told to stop."""

from typing import Annotated

import typer

from tierd.cli.console import fail
from tierd.cli.settings import ConfigOption, SetOption, settings
from tierd.core.errors import TierdError

StopWithOption = Annotated[
    int | None,
    typer.Option("--stop-with", metavar="PID", help="Stop cleanly when that process has ended."),
]

DieAtOption = Annotated[str, typer.Option("--die-at", hidden=True, help="For crash tests.")]

ThrottleOption = Annotated[
    int,
    typer.Option(
        "--throttle-disk", metavar="BYTES_PER_S", min=0, hidden=True, help="For benchmarks."
    ),
]


def serve(
    config: ConfigOption = None,
    override: SetOption = None,
    stop_with: StopWithOption = None,
    die_at: DieAtOption = "",
    throttle_disk: ThrottleOption = 0,
) -> None:
    """Run the daemon in the foreground; SIGTERM or Ctrl-C stops it cleanly."""
    effective = settings(config, override)
    # Torch and the tiers take a second to import: other commands do without.
    from tierd.service import daemon

    try:
        daemon.run(effective, stop_with, die_at, throttle_disk)
    except TierdError as error:
        fail(str(error), "remedy the above and start again; blocks on disk are found again")
    except OSError as error:
        fail(str(error), "check the path or address, who owns it, and what else is using it")
