"""`tierd status`: what a running daemon is and holds, once."""

import json
from typing import Annotated

import typer

from tierd.cli.console import out
from tierd.cli.daemon_status import DaemonOption, status_or_end


def status(
    daemon: DaemonOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Show the tiers, namespaces, hit rate, routes and leases of a running daemon."""
    from tierd.cli.views import status_view
    from tierd.service.status import status_json

    reply = status_or_end(daemon)
    if as_json:
        out.print_json(json.dumps(status_json(reply)))
    else:
        out.print(status_view(reply))
