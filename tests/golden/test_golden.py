"""Directories of each format version: opened with every block, or refused and left alone."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.golden.make import HELD, unpack
from tests.integration.blocks import chain, fetch
from tests.integration.daemons import PATIENCE_S, Daemon, serve_command
from tierd.cli.main import app
from tierd.core.units import MiB


def test_a_daemon_serves_every_block_of_version_1(tmp_path: Path) -> None:
    daemon = Daemon(16 * MiB)
    try:
        daemon.stop()
        shutil.rmtree(daemon.disk)
        shutil.copytree(unpack("disk-v1", tmp_path), daemon.disk)
        daemon.start()
        with daemon.client() as client:
            for name, (layout, blocks) in HELD.items():
                kv = client.open(layout, name)
                for part in range(layout.shards):
                    assert fetch(kv, chain(1, blocks, layout), part) == blocks
            assert sorted(each.name for each in client.status().namespaces) == sorted(HELD)
    finally:
        daemon.end()


@pytest.mark.parametrize("index", ["there", "lost"])
def test_version_1_checks_clean(tmp_path: Path, index: str) -> None:
    directory = unpack("disk-v1", tmp_path)
    options = ["--json", str(directory)]
    if index == "lost":
        shutil.rmtree(directory / "index")
        options.append("--rebuild")
    result = CliRunner().invoke(app, ["check", *options])
    assert result.exit_code == 0, result.output
    namespaces = json.loads(result.stdout)["namespaces"]
    good = {each["name"]: each["good"] for each in namespaces}
    assert good == {name: blocks for name, (_, blocks) in HELD.items()}


def test_a_version_to_come_is_refused_and_left_alone(tmp_path: Path) -> None:
    directory = unpack("disk-v2-to-come", tmp_path)
    [segment] = directory.glob("*.segment")
    held = segment.read_bytes()
    for options in ([], ["--repair"], ["--rebuild"]):
        result = CliRunner().invoke(app, ["check", *options, str(directory)])
        assert result.exit_code == 2
        assert "format version 2, where this tierd reads 1" in result.stderr
    settings: dict[str, object] = {
        "listen.unix": tmp_path / "t.sock",
        "tiers.host.bytes": MiB,
        "tiers.region_bytes": 65536,
        "tiers.disk.bytes": MiB,
        "tiers.disk.directories": directory,
    }
    refused = subprocess.run(
        serve_command(settings), capture_output=True, timeout=PATIENCE_S, text=True, check=False
    )
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "format version 2, where this tierd reads 1" in refused.stderr
    assert segment.read_bytes() == held
