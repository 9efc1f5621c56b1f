"""A real server of LMCache whose L2 is tierd, and workers that store and load through it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.lmcache.conftest import StartServer
from tests.lmcache.servers import Loaded
from tests.lmcache.shapes import CHUNKS, OTHER
from tierd.core.units import MiB

pytestmark = pytest.mark.timeout(600)  # a server starts in seconds, or in many where much else runs


def test_another_server_loads_what_one_stored(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    daemon = start_daemon(16 * MiB)
    server = start_server(address=daemon.address)
    sums = server.worker().store(1)
    assert len(set(sums)) == CHUNKS  # no chunk is like another, so none can stand for another
    _await_blocks(daemon, CHUNKS)
    server.restart()
    worker = server.worker()
    assert worker.load(1) == Loaded(CHUNKS, sums)
    assert worker.load(2).chunks == 0


def test_what_left_the_memory_of_the_server_comes_from_the_daemons_disk(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    daemon = start_daemon(16 * MiB)
    server = start_server(address=daemon.address)
    worker = server.worker()
    sums = worker.store(1)
    _await_blocks(daemon, CHUNKS)
    daemon.restart()
    server.forget()
    eventually(lambda: worker.load(1) == Loaded(CHUNKS, sums))
    assert daemon.status().namespaces[0].tokens_hit[-1] == CHUNKS


def test_a_daemon_that_was_killed_costs_hits_and_no_failure(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    daemon = start_daemon(16 * MiB)
    server = start_server(address=daemon.address)
    worker = server.worker()
    sums = worker.store(1)
    eventually(lambda: daemon.status().tiers[-1].blocks == CHUNKS)
    daemon.kill()
    server.forget()
    assert worker.load(1).chunks == 0
    worker.store(2)
    assert worker.load(2).chunks == CHUNKS  # from the server's own memory
    daemon.start()
    eventually(lambda: worker.load(1) == Loaded(CHUNKS, sums))


def test_a_server_starts_before_the_daemon(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    daemon = start_daemon(16 * MiB)
    daemon.stop()
    server = start_server(address=daemon.address)
    worker = server.worker()
    worker.store(1)
    assert worker.load(1).chunks == CHUNKS
    daemon.start()
    sequences = iter(range(2, 1000))

    def arrives() -> bool:
        worker.store(next(sequences))
        return daemon.status().tiers[0].blocks > 0

    eventually(arrives)


def test_workers_at_once_get_each_their_own(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    daemon = start_daemon(16 * MiB)
    server = start_server(address=daemon.address)
    workers = [server.worker() for _ in range(3)]
    with ThreadPoolExecutor(len(workers)) as threads:
        sums = list(threads.map(lambda worker, at: worker.store(at), workers, range(3)))
        _await_blocks(daemon, 3 * CHUNKS)
        server.forget()
        loaded = list(threads.map(lambda worker, at: worker.load(at), workers, (1, 2, 0)))
    assert loaded == [Loaded(CHUNKS, sums[at]) for at in (1, 2, 0)]


def test_kv_of_another_dtype_is_not_loaded(
    start_daemon: StartDaemon, start_server: StartServer
) -> None:
    daemon = start_daemon(16 * MiB)
    server = start_server(address=daemon.address)
    server.worker().store(1)
    _await_blocks(daemon, CHUNKS)
    server.restart()
    worker = server.worker(OTHER)
    assert worker.load(1).chunks == 0
    sums = worker.store(1)
    _await_blocks(daemon, 2 * CHUNKS)
    server.restart()
    assert server.worker(OTHER).load(1) == Loaded(CHUNKS, sums)


def test_a_wrong_parameter_is_named(start_server: StartServer) -> None:
    server = start_server(adress="/run/tierd.sock")
    assert not server.is_running
    assert "adapter_params.adress is '/run/tierd.sock': known are address" in server.log()


def _await_blocks(daemon: Daemon, blocks: int) -> None:
    """Return when the server has handed so many objects down, which it does in the background."""
    eventually(lambda: daemon.status().tiers[0].blocks == blocks)
