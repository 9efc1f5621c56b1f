"""Directories that a real daemon wrote, checked, damaged, repaired, rebuilt and served again."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.integration.blocks import LAYOUT, ODD, SHARDED, chain, content, fetch, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, eventually, serve_command
from tests.integration.test_spill import SMALL_HOST
from tierd.core.units import MiB
from tierd_client import LayoutSpec


def check(daemon: Daemon, *options: str, code: int = 0) -> dict[str, object]:
    """Run `tierd check` as its own process; return what it says as JSON."""
    command = [sys.executable, "-m", "tierd.cli", "check", "--json", *options, str(daemon.disk)]
    ran = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, text=True, check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    said: dict[str, object] = json.loads(ran.stdout)
    return said


def test_a_directory_in_use_is_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    for option in ("--json", "--repair", "--rebuild"):
        ran = subprocess.run(
            [sys.executable, "-m", "tierd.cli", "check", option, str(daemon.disk)],
            capture_output=True,
            timeout=PATIENCE_S,
            text=True,
            check=False,
        )
        assert ran.returncode == 1
        assert f"is in use by process {daemon.pid}" in ran.stderr
        assert "next: stop the daemon" in ran.stderr
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), chain(1, 5)) == 5, "the daemon is not disturbed"


def test_what_a_daemon_left_is_clean(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(1 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for seed in range(20):
            publish(kv, chain(seed, 20))
    daemon.stop()
    assert check(daemon)["problems"] == []


def test_after_a_crash_every_record_is_right(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(1 * MiB, tiers__host__bytes=SMALL_HOST)
    for turn in range(3):
        with daemon.client() as client:
            kv = client.open(LAYOUT)
            for seed in range(20):
                publish(kv, chain(100 * turn + seed, 20))
            daemon.kill()
        assert check(daemon)["problems"] == []
        daemon.start()


def test_a_lost_index_is_rebuilt_and_every_block_served(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    held: dict[str, LayoutSpec] = {"plain": LAYOUT, "odd": ODD, "sharded": SHARDED}
    with daemon.client() as client:
        for name, layout in held.items():
            kv = client.open(layout, name)
            for part in range(layout.shards):
                publish(kv, chain(1, 30, layout), part)
    daemon.stop()
    shutil.rmtree(daemon.disk / "index")
    assert check(daemon, code=1)["clean"] is False
    check(daemon, "--rebuild")
    assert check(daemon)["problems"] == []
    daemon.start()
    with daemon.client() as client:
        assert {each.name for each in client.status().namespaces} == set(held)
        for name, layout in held.items():
            kv = client.open(layout, name)
            for part in range(layout.shards):
                assert fetch(kv, chain(1, 30, layout), part) == 30
            for part in range(layout.shards):
                assert publish(kv, chain(2, 30, layout), part) == 30
    daemon.restart()
    with daemon.client() as client:
        for name, layout in held.items():
            kv = client.open(layout, name)
            assert fetch(kv, chain(1, 30, layout)) == fetch(kv, chain(2, 30, layout)) == 30
    daemon.stop()
    assert check(daemon)["problems"] == []


def test_blocks_that_a_daemon_without_its_index_forgot_are_found(
    start_daemon: StartDaemon,
) -> None:
    """A daemon that finds segments and no index starts empty; the slots still say it all."""
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), chain(1, 30)) == 30
    daemon.stop()
    shutil.rmtree(daemon.disk / "index")
    daemon.start()
    daemon.stop()
    check(daemon, "--rebuild")
    daemon.start()
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), chain(1, 30)) == 30


def test_one_of_two_directories_is_not_judged_alone(start_daemon: StartDaemon) -> None:
    """A repair that was given one directory of a striped tier dropped the records of the other.

    A daemon that is told to do without the other one says so, and then the index does, too.
    """
    daemon = start_daemon(16 * MiB)
    daemon.stop()
    other = daemon.directory / "other"
    daemon.settings["tiers.disk.directories"] = f"{daemon.disk},{other}"
    daemon.start()
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), chain(1, 60)) == 60
    daemon.stop()
    for option in ("--json", "--repair", "--rebuild"):
        command = [sys.executable, "-m", "tierd.cli", "check", option, str(daemon.disk)]
        ran = subprocess.run(
            command, capture_output=True, timeout=PATIENCE_S, text=True, check=False
        )
        assert ran.returncode == 2, ran.stderr
        assert str(other) in ran.stderr
    daemon.start()
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), chain(1, 60)) == 60
    daemon.stop()
    daemon.settings["tiers.disk.directories"] = daemon.disk
    daemon.start()
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), chain(1, 60)) < 60
    daemon.stop()
    assert f"{other} is left out now" in daemon.log.read_text()
    check(daemon, "--repair")
    assert check(daemon)["problems"] == []


@pytest.mark.parametrize("where", ["payload", "header"])
def test_a_damaged_block_is_dropped_and_the_rest_served(
    start_daemon: StartDaemon, where: str
) -> None:
    daemon = start_daemon(16 * MiB)
    keys = chain(1, 40)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), keys) == 40
    daemon.stop()
    _damage(daemon, content(keys)[25].tobytes(), 100 if where == "payload" else -4000)
    found = check(daemon, code=1)["problems"]
    assert isinstance(found, list)
    assert [each["key"] for each in found] == [keys[25].hex()]
    check(daemon, "--repair")
    assert check(daemon)["problems"] == []
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert fetch(kv, keys) == 25
        assert client.status().namespaces[0].corrupt_blocks == 0
        publish(kv, keys)
        assert fetch(kv, keys) == 40


def test_the_scrubber_finds_damage_before_a_client_does(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    keys = chain(1, 40)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), keys) == 40
    daemon.stop()
    _damage(daemon, content(keys)[25].tobytes(), 100)
    daemon.settings["tiers.disk.scrub_bytes_per_s"] = 1024 * MiB
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        eventually(lambda: client.status().namespaces[0].corrupt_blocks == 1)
        assert kv.match(keys).blocks == 25
        eventually(lambda: client.status().tiers[1].bytes_scrubbed == 40 * LAYOUT.block_bytes)
        assert publish(kv, keys) >= 1
        assert fetch(kv, keys) == 40
    daemon.stop()
    assert check(daemon)["problems"] == []


def test_a_damaged_index_ends_the_daemon_with_what_to_do(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), chain(1, 30)) == 30
    daemon.stop()
    data = daemon.disk / "index" / "data.mdb"
    with data.open("r+b") as file:
        file.truncate(9000)
    refused = subprocess.run(
        serve_command(daemon.settings),
        capture_output=True,
        timeout=PATIENCE_S,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "`tierd check --rebuild`" in refused.stderr
    assert "Traceback" not in refused.stderr
    check(daemon, code=1)
    check(daemon, "--rebuild")
    daemon.start()
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), chain(1, 30)) == 30


def _damage(daemon: Daemon, block: bytes, at: int) -> None:
    """Change one byte, `at` bytes from where `block` starts on disk."""
    for path in daemon.segments():
        held = bytearray(path.read_bytes())
        start = held.find(block)
        if start >= 0:
            held[start + at] ^= 1
            path.write_bytes(held)
            return
    raise AssertionError("the block is in no segment")
