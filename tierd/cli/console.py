"""How commands speak: answers on stdout, faults on stderr with what to do next, no traceback."""

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

BAD_INPUT = 2
RUNTIME_FAILURE = 1

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def refuse(wrong: str, next_step: str) -> NoReturn:
    """End the command because its input cannot be used: exit code 2."""
    _end(wrong, next_step, BAD_INPUT)


def fail(wrong: str, next_step: str) -> NoReturn:
    """End the command because the world did not comply: exit code 1."""
    _end(wrong, next_step, RUNTIME_FAILURE)


def _end(wrong: str, next_step: str, code: int) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(wrong)}")
    err.print(f"[bold]next:[/] {escape(next_step)}")
    raise typer.Exit(code)
