"""Daemons for tests: one's own with any settings, and one that the tests of a module share."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.integration.daemons import Daemon
from tierd.core.units import MiB
from tierd_client import Client

StartDaemon: TypeAlias = Callable[..., Daemon]


@pytest.fixture
def start_daemon() -> Iterator[StartDaemon]:
    """Starts daemons that end with the test."""
    daemons: list[Daemon] = []

    def start(disk_bytes: int = 0, **settings: object) -> Daemon:
        daemons.append(Daemon(disk_bytes, **settings))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.end()


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """A daemon with a host and a disk tier, for tests that bring names and seeds of their own.

    The host tier has room for what all of them publish: none waits for another's regions.
    """
    daemon = Daemon(
        16 * MiB,
        listen__tcp="127.0.0.1:0",
        limits__keys_per_request_max=2000,
        tiers__host__bytes=64 * MiB,
    )
    yield daemon
    daemon.end()


@pytest.fixture
def client(shared_daemon: Daemon) -> Iterator[Client]:
    """A client of the shared daemon."""
    with shared_daemon.client() as client:
        yield client
