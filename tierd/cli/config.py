"""`tierd config`: print the effective settings, each with its default and the reason."""

from tierd.cli.console import out
from tierd.cli.settings import ConfigOption, SetOption, settings
from tierd.service.config_file import render_toml


def config(config: ConfigOption = None, override: SetOption = None) -> None:
    """Print the effective settings as a tierd.toml, each with its default and the reason."""
    effective = settings(config, override)
    out.print(render_toml(effective), markup=False, soft_wrap=True, end="")
