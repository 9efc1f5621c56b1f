"""A daemon on a disk that fills up, refuses writes, fails, and comes back: the rest goes on.

By real means: a small file system of its own where mounting is allowed, and a limit on the size of
the files that the daemon may write, which always is.
"""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.blocks import LAYOUT, chain, fetch, publish
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, REGION_BYTES, Daemon, eventually
from tierd.core.units import MiB
from tierd_client import Client
from tierd_proto.v1 import tierd_pb2 as pb

DISK = 1
BLOCKS = 8


def disk_of(client: Client) -> pb.TierStatus:
    return client.status().tiers[DISK]


def on_disk(client: Client, blocks: int) -> None:
    """Return when so many blocks are on disk, and nothing waits to be written."""
    eventually(lambda: disk_of(client).blocks == blocks)


def let_write(daemon: Daemon, bytes_max: int) -> None:
    """Have every write of the daemon beyond so many bytes of a file fail from now on."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (bytes_max, hard))


@contextmanager
def mounted(directory: Path, bytes_max: int) -> Iterator[None]:
    """Mount a file system of so many bytes, or skip the test where that is not allowed."""
    directory.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={bytes_max}", "tmpfs", str(directory)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_disk_that_refuses_writes_is_read_and_catches_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    early, late = chain(1, BLOCKS), chain(2, BLOCKS)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        publish(kv, early)
        on_disk(client, BLOCKS)
    daemon.restart()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        let_write(daemon, 0)
        for seed in range(2, 6):
            publish(kv, chain(seed, BLOCKS))
        eventually(lambda: disk_of(client).state == "read-only")
        status = disk_of(client)
        assert status.online
        assert status.cause
        assert status.faults
        assert fetch(kv, early) == BLOCKS, "what was on disk is served"
        assert kv.match(early).by_tier == {"host": BLOCKS}, "and brought to memory"
        assert fetch(kv, late) == BLOCKS, "what was published meanwhile is in memory"
        let_write(daemon, resource.RLIM_INFINITY)
        eventually(lambda: disk_of(client).state == "online")
        on_disk(client, 5 * BLOCKS)
        assert not disk_of(client).cause
    daemon.restart()
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), late) == BLOCKS


def test_persist_says_that_a_disk_takes_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        let_write(daemon, 0)
        for seed in range(1, 5):
            publish(kv, chain(seed, BLOCKS))
        eventually(lambda: disk_of(client).state == "read-only")
        assert kv.persist(chain(1, BLOCKS), wait_s=PATIENCE_S) == 0
        let_write(daemon, resource.RLIM_INFINITY)
        eventually(lambda: disk_of(client).state == "online")
        assert kv.persist(chain(1, BLOCKS), wait_s=PATIENCE_S) == BLOCKS


def test_a_full_file_system_is_read_and_used_again_when_there_is_room(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """The index and the first segments fit; then the file system is full, of somebody else's."""
    with mounted(tmp_path, 4 * MiB):
        daemon = start_daemon(
            tiers__disk__bytes=3 * MiB, tiers__disk__directories=tmp_path / "disk"
        )
        with daemon.client() as client:
            kv = client.open(LAYOUT)
            publish(kv, chain(1, BLOCKS))
            on_disk(client, BLOCKS)
            fill = tmp_path / "somebody else's"
            with fill.open("wb", buffering=0) as file:
                while file.write(bytes(REGION_BYTES)) == REGION_BYTES:
                    pass  # The last write that there is any room for is a short one.
            seeds = range(2, 10)
            for seed in seeds:
                publish(kv, chain(seed, BLOCKS))
            eventually(lambda: disk_of(client).state == "read-only")
            assert "space" in disk_of(client).cause
            assert fetch(kv, chain(9, BLOCKS)) == BLOCKS
            fill.unlink()
            eventually(lambda: disk_of(client).state == "online")
            on_disk(client, 9 * BLOCKS)
        daemon.stop()
