"""Directories of each format version: opened with every block, or refused and left alone."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.golden.make import HELD, unpack
from tests.integration.blocks import chain, fetch, publish
from tests.integration.daemons import PATIENCE_S, Daemon, serve_command
from tierd.cli.main import app
from tierd.core.slots import SLOT_MAGIC, slot_stride_bytes
from tierd.core.units import PAGE_BYTES, MiB
from tierd_client import LayoutSpec

VERSIONS = ("disk-v1", "disk-v2")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_daemon_serves_every_block(tmp_path: Path, version: str) -> None:
    daemon = Daemon(16 * MiB)
    try:
        daemon.stop()
        shutil.rmtree(daemon.disk)
        shutil.copytree(unpack(version, tmp_path), daemon.disk)
        daemon.start()
        with daemon.client() as client:
            for name, (layout, blocks) in HELD.items():
                kv = client.open(layout, name)
                for part in range(layout.shards):
                    assert fetch(kv, chain(1, blocks, layout), part) == blocks
            assert sorted(each.name for each in client.status().namespaces) == sorted(HELD)
    finally:
        daemon.end()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("index", ["there", "lost"])
def test_every_version_checks_clean(tmp_path: Path, index: str, version: str) -> None:
    directory = unpack(version, tmp_path)
    options = ["--json", str(directory)]
    if index == "lost":
        shutil.rmtree(directory / "index")
        options.append("--rebuild")
    result = CliRunner().invoke(app, ["check", *options])
    assert result.exit_code == 0, result.output
    namespaces = json.loads(result.stdout)["namespaces"]
    good = {each["name"]: each["good"] for each in namespaces}
    assert good == {name: blocks for name, (_, blocks) in HELD.items()}


def test_blocks_of_both_versions_live_in_one_segment(tmp_path: Path) -> None:
    """A daemon writes as it does today into the free slots of a segment of version 1."""
    daemon = Daemon(16 * MiB)
    layout, blocks = HELD["plain"]
    try:
        daemon.stop()
        shutil.rmtree(daemon.disk)
        shutil.copytree(unpack("disk-v1", tmp_path), daemon.disk)
        before = slot_versions(daemon.disk, layout)
        daemon.start()
        with daemon.client() as client:
            kv = client.open(layout, "plain")
            publish(kv, chain(2, 2, layout), 0)
            assert kv.persist(chain(2, 2, layout)) == 2
        daemon.stop()
        assert (before, slot_versions(daemon.disk, layout)) == ({1: blocks}, {1: blocks, 2: 2})
        daemon.start()
        with daemon.client() as client:
            kv = client.open(layout, "plain")
            assert fetch(kv, chain(1, blocks, layout), 0) == blocks
            assert fetch(kv, chain(2, 2, layout), 0) == 2
    finally:
        daemon.end()


def slot_versions(disk: Path, layout: LayoutSpec) -> dict[int, int]:
    """Count the slots of a namespace's segments by the version that their headers say."""
    found: Counter[int] = Counter()
    for segment in disk.glob(f"{layout.fingerprint.hex()}-*.segment"):
        held = segment.read_bytes()
        for at in range(PAGE_BYTES, len(held), slot_stride_bytes(layout)):
            if held[at : at + 8] == SLOT_MAGIC:
                found[int.from_bytes(held[at + 8 : at + 16], "little")] += 1
    return dict(found)


def test_a_version_to_come_is_refused_and_left_alone(tmp_path: Path) -> None:
    directory = unpack("disk-v3-to-come", tmp_path)
    [segment] = directory.glob("*.segment")
    held = segment.read_bytes()
    for options in ([], ["--repair"], ["--rebuild"]):
        result = CliRunner().invoke(app, ["check", *options, str(directory)])
        assert result.exit_code == 2
        assert "format version 3, where this tierd reads 2" in result.stderr
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
    assert "format version 3, where this tierd reads 2" in refused.stderr
    assert segment.read_bytes() == held
