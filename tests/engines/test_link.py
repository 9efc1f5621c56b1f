"""An engine's link to a daemon that may not be there yet, may refuse it, or may never come."""

import logging
from collections.abc import Iterator
from os import kill
from signal import SIGCONT, SIGSTOP
from threading import Thread, enumerate

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tierd.core.errors import InvalidRequest
from tierd.core.layouts import LayoutSpec
from tierd.core.units import MiB
from tierd_client import opaque_layout
from tierd_client.engines.link import Link

NAMESPACES_MAX = 256
"""Of a daemon: it refuses more."""


def layout(name: str) -> LayoutSpec:
    return opaque_layout(name, block_tokens=1, token_bytes=4096)


LAYOUTS = [layout("one"), layout("other")]


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(16 * MiB, listen__tcp="127.0.0.1:0")


@pytest.fixture
def stopped(daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that answers nobody until the test has ended."""
    kill(daemon.pid, SIGSTOP)
    yield daemon
    kill(daemon.pid, SIGCONT)


def seekers() -> list[Thread]:
    return [thread for thread in enumerate() if thread.name == "tierd-link"]


def test_what_is_there_is_used_at_once(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(daemon.address, "test", LAYOUTS)
    assert [space.layout for space in link.spaces] == LAYOUTS
    assert link.open(LAYOUTS[1]) is link.spaces[1]
    link.close()
    link.close()
    assert (link.client, link.spaces, link.open(LAYOUTS[0])) == (None, (), None)
    assert not caplog.records


def test_an_engine_starts_before_its_daemon(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.stop()
    link = Link(daemon.address, "the engine", LAYOUTS)
    assert (link.client, link.spaces, link.open(LAYOUTS[0])) == (None, (), None)
    assert not link.maps([])
    daemon.start()
    eventually(lambda: len(link.spaces) == 2)
    assert link.maps(["host"])
    eventually(lambda: not seekers())
    assert [each.getMessage() for each in caplog.records] == [
        "no daemon answers yet: the engine starts without its blocks",
        "the daemon answers now: the engine goes on with its blocks",
    ]
    link.close()


def test_a_link_that_found_nobody_leaves_no_thread(daemon: Daemon) -> None:
    daemon.stop()
    link = Link(daemon.address, "test", LAYOUTS)
    assert seekers()
    link.close()
    assert not seekers()


def test_a_daemon_that_does_not_answer_is_let_go(stopped: Daemon) -> None:
    link = Link(stopped.address, "test", LAYOUTS)
    assert link.spaces == ()
    link.close()
    assert not seekers()


def test_a_refusal_is_told_once_and_costs_hits_only(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    with daemon.client() as client:
        for number in range(NAMESPACES_MAX - 1):
            client.open(layout(str(number)))
    link = Link(daemon.address, "the engine", LAYOUTS)
    eventually(lambda: not seekers())
    assert link.spaces == ()
    assert link.open(LAYOUTS[1]) is None
    assert link.open(LAYOUTS[0]) is not None
    [told] = caplog.records
    assert told.levelno == logging.ERROR
    assert "does not take the blocks of the engine: " in told.getMessage()
    link.close()


def test_which_tiers_this_process_maps(daemon: Daemon) -> None:
    here, far = (Link(address, "test", LAYOUTS) for address in (daemon.address, daemon.tcp))
    assert here.maps([])
    assert here.maps(["host"])
    assert not here.maps(["host", "disk"])
    assert not here.maps(["no such tier"])
    assert not far.maps([])
    daemon.kill()
    eventually(lambda: not here.maps(["host"]))
    daemon.start()
    eventually(lambda: here.maps(["host"]))
    here.close()
    far.close()


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="address is 'nowhere': write unix:/path"):
        Link("nowhere", "test")
