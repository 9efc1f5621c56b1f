"""`tierd serve`: run the daemon until it is told to stop."""

from tierd.cli.console import fail
from tierd.cli.settings import ConfigOption, SetOption, settings
from tierd.core.errors import TierdError


def serve(config: ConfigOption = None, override: SetOption = None) -> None:
    """Run the daemon in the foreground; SIGTERM or Ctrl-C stops it cleanly."""
    effective = settings(config, override)
    # Torch and the tiers take a second to import: other commands do without.
    from tierd.service import daemon

    try:
        daemon.run(effective)
    except TierdError as error:
        fail(str(error), "remedy the above and start again; blocks on disk are found again")
    except OSError as error:
        fail(str(error), "check the path or address, who owns it, and what else is using it")
