"""Servers of LMCache for tests, which only run where they are told of an environment with it.

    pytest tests/lmcache --lmcache-python .venv-lmcache/bin/python

The tests and the daemons run in the environment of `make setup`, LMCache in the other.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.integration.conftest import start_daemon
from tests.lmcache.servers import Server

__all__ = ["start_daemon"]

StartServer: TypeAlias = Callable[..., Server]

_OPTION: Final = "--lmcache-python"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(_OPTION, type=Path, help="the Python of an environment that has LMCache")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these tests out where nobody says which Python has LMCache."""
    return True if config.getoption(_OPTION, default=None) is None else None


@pytest.fixture
def start_server(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that end with the test. Parameters are the adapter's."""
    python: Path = pytestconfig.getoption(_OPTION)
    servers: list[Server] = []

    def start(**parameters: object) -> Server:
        server = Server(python.absolute(), tmp_path / "log", parameters)
        servers.append(server)  # Before it runs: one that does not come up has to end, too.
        server.start()
        return server

    yield start
    for server in servers:
        server.end()
