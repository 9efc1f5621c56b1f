"""`tierd top`: the status of a running daemon, live in the terminal."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tierd.cli.console import out, refuse
from tierd.cli.daemon_status import DaemonOption, fetch_status, status_or_end
from tierd.core.errors import DaemonUnreachable


def top(
    daemon: DaemonOption = "",
    interval: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
) -> None:
    """Show the status of a running daemon and its rates, until q or Ctrl-C."""
    if not out.is_terminal:
        refuse("tierd top draws on a terminal, and there is none", "use `tierd status --json`")
    with suppress(KeyboardInterrupt), _single_keys():
        _watch(daemon, interval)


def _watch(daemon: str, interval: float) -> None:
    from tierd.cli.views import status_view

    before = status_or_end(daemon)
    view = status_view(before)
    with Live(_page(view, ""), console=out, screen=True, auto_refresh=False) as live:
        while _key(interval) != b"q":
            fault = ""
            try:
                now = fetch_status(daemon)
            except DaemonUnreachable as error:
                # It may be restarting: what it said last stays on the screen.
                fault = str(error)
            else:
                view, before = status_view(now, before), now
            live.update(_page(view, fault), refresh=True)


def _page(view: RenderableType, fault: str) -> RenderableType:
    return Group(Text(fault, "bold red") if fault else Text("q quits", "dim"), view)


@contextmanager
def _single_keys() -> Iterator[None]:
    """Have the terminal hand over keys as they are pressed, and not show them."""
    if not sys.stdin.isatty():
        yield
        return
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _key(wait_s: float) -> bytes:
    """Return the key pressed within `wait_s`, or nothing when that is over."""
    keyboard = [sys.stdin] if sys.stdin.isatty() else []
    pressed, _, _ = select.select(keyboard, [], [], wait_s)
    return os.read(sys.stdin.fileno(), 1) if pressed else b""
