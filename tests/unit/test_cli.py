"""The command's settings end in a config or in exit code 2 with what to do next."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app


def test_config_prints_toml() -> None:
    result = CliRunner().invoke(app, ["config", "--set", "tiers.host.bytes=8GiB"])
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["tiers"]["host"]["bytes"] == "8GiB"


def test_config_takes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tierd.toml"
    path.write_text('[listen]\nunix = "/run/other.sock"\n')
    result = CliRunner().invoke(app, ["config", "--config", str(path)])
    assert tomllib.loads(result.stdout)["listen"]["unix"] == "/run/other.sock"


@pytest.mark.parametrize("command", ["config", "serve"])
def test_bad_settings_end_with_what_to_do_next(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--set", "tiers.hots.bytes=8GiB"])
    assert result.exit_code == 2
    assert "did you mean tiers" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: ")
    assert result.stdout == ""


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout == f"tierd {version('tierd')}\n"
