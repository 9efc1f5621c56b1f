"""The options by which commands are given the daemon's settings."""

from pathlib import Path
from typing import Annotated

import typer

from tierd.cli.console import refuse
from tierd.service.config import Config
from tierd.service.config_file import ConfigError, load_config

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting on top of the file, such as tiers.host.bytes=8GiB. May be repeated.",
    ),
]


def settings(path: Path | None, overrides: list[str] | None) -> Config:
    """Return the effective settings, or end the command with what is wrong with them."""
    try:
        return load_config(path, overrides or [])
    except ConfigError as error:
        refuse(
            f"the settings cannot be used\n{error}",
            "correct the above; nothing was started. `tierd config` prints every key",
        )
