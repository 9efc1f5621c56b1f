"""Lessons 14 and 19: a restart finds what was there, and a directory has one daemon."""

import subprocess
from pathlib import Path

import pytest

from tests.integration.blocks import LAYOUT, chain, content, fetch, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, serve_command
from tests.integration.test_spill import SMALL_HOST, publish_all
from tierd.core.units import MiB


def test_lesson_14_after_kill_9_what_was_durable_is_found(start_daemon: StartDaemon) -> None:
    """LMCache#1175, #562, #1788, #4778: the bytes were on disk, and what knew where was in memory:
    after a restart the cache was cold, and the disk full.

    Killed while it writes, three times: nothing acknowledged is lost, nothing is wrong, and the
    room is known. `python -m tierd_bench.torture` does that a thousand times.
    """
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    acknowledged: list[int] = []
    for turn in range(3):
        with daemon.client() as client:
            kv = client.open(LAYOUT)
            for seed in range(10 * turn, 10 * turn + 6):
                publish_all(kv, chain(seed, 20))
                again = kv.publish(chain(seed, 20), content(chain(seed, 20)), durable_s=PATIENCE_S)
                if again.durable == 20:
                    acknowledged.append(seed)
            for seed in range(10 * turn + 6, 10 * turn + 9):
                kv.publish(chain(seed, 20), content(chain(seed, 20)))
            daemon.kill()
        daemon.start()
        with daemon.client() as client:
            kv = client.open(LAYOUT)
            assert len(acknowledged) == 6 * (turn + 1)
            for seed in acknowledged:
                assert kv.match(chain(seed, 20)).blocks == fetch(kv, chain(seed, 20)) == 20
            for seed in range(10 * turn + 6, 10 * turn + 9):
                assert fetch(kv, chain(seed, 20)) == kv.match(chain(seed, 20)).blocks
            assert client.status().namespaces[0].corrupt_blocks == 0


def _refused(settings: dict[str, object]) -> str:
    """Start a second daemon, which must not; return what it says."""
    second = subprocess.run(
        serve_command(settings), capture_output=True, timeout=PATIENCE_S, text=True, check=False
    )
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    return " ".join(second.stderr.split())


@pytest.mark.parametrize("shared", ["the first", "the last", "by another name"])
def test_lesson_19_a_directory_has_one_daemon(
    start_daemon: StartDaemon, tmp_path: Path, shared: str
) -> None:
    """sglang#35484: ranks that were given the same offload path overwrote each other's files.

    Two daemons with one directory in common, wherever in their lists it is and whatever they call
    it: the second says who has it and stops, and the first notices nothing.
    """
    daemon = start_daemon(16 * MiB)
    daemon.stop()
    places = [tmp_path / "one", tmp_path / "two"]
    daemon.settings["tiers.disk.directories"] = ",".join(map(str, places))
    daemon.start()
    (tmp_path / "link").symlink_to(places[1])
    theirs = {
        "the first": [places[0], tmp_path / "other"],
        "the last": [tmp_path / "other", places[1]],
        "by another name": [tmp_path / "other", tmp_path / "link"],
    }[shared]
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert publish(kv, chain(1, 60)) == 60
        said = _refused(
            {
                **daemon.settings,
                "listen.unix": daemon.directory / "other.sock",
                "tiers.disk.directories": ",".join(map(str, theirs)),
            }
        )
        assert f"is in use by process {daemon.pid}" in said
        assert kv.persist(chain(1, 60)) == 60
    daemon.kill()
    # The lock died with its owner, and nothing was overwritten.
    daemon.start()
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), chain(1, 60)) == 60


def test_lesson_19_a_daemon_that_stopped_gives_its_directory_up(start_daemon: StartDaemon) -> None:
    """The other half of sglang#35484: a lock that outlives its owner is as bad as none."""
    daemon = start_daemon(16 * MiB)
    for end in (Daemon.stop, Daemon.kill):
        with daemon.client() as client:
            publish(client.open(LAYOUT), chain(1, 10))
            assert client.open(LAYOUT).persist(chain(1, 10)) == 10
        end(daemon)
        daemon.start()
