"""Engines and daemons for tests, which only run where they are told of an environment with vLLM.

    pytest tests/vllm --vllm-python .venv-vllm/bin/python

The tests and the daemons run in the environment of `make setup`, the engines in the other.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.integration.conftest import StartDaemon, start_daemon
from tests.integration.daemons import Daemon
from tests.vllm import models
from tests.vllm.asking import Local
from tests.vllm.engines import Engine, Garage
from tierd.core.units import MiB

__all__ = ["StartDaemon", "start_daemon"]

StartEngine: TypeAlias = Callable[..., Engine]
Model: TypeAlias = Callable[[str], Path]

_OPTION: Final = "--vllm-python"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(_OPTION, type=Path, help="the Python of an environment that has vLLM")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these tests out where nobody says which Python has vLLM."""
    return True if config.getoption(_OPTION, default=None) is None else None


@pytest.fixture(scope="session")
def vllm_python(pytestconfig: pytest.Config) -> Path:
    """The Python that has vLLM."""
    given: Path = pytestconfig.getoption(_OPTION)
    return given.absolute()


@pytest.fixture(scope="session")
def garage(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garage]:
    """Where engines come from."""
    made = Garage(vllm_python, tmp_path_factory.mktemp("garage") / "log")
    yield made
    made.end()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return the directory of a tiny model of `tests.vllm.models`."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = models.make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


def _engines(garage: Garage, model: Model, logs: Path) -> Iterator[StartEngine]:
    engines: list[Engine] = []

    def start(
        name: str = "llama", connector: Mapping[str, Any] | None = None, **settings: Any
    ) -> Engine:
        log = logs / f"{len(engines)}.log"
        engines.append(Engine(garage, model(name), log, connector, **settings))
        return engines[-1].ready()

    yield start
    for engine in engines:
        engine.end()


@pytest.fixture
def start_engine(garage: Garage, model: Model, tmp_path: Path) -> Iterator[StartEngine]:
    """Starts engines that end with the test."""
    yield from _engines(garage, model, tmp_path)


@pytest.fixture(scope="module")
def start_shared_engine(
    garage: Garage, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartEngine]:
    """Starts engines that end with the tests of a module."""
    yield from _engines(garage, model, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def local(start_shared_engine: StartEngine) -> Local:
    """An engine of the model "llama" that knows nothing of tierd."""
    return Local(start_shared_engine())


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """A daemon with room for everything, for tests that bring prompts of their own."""
    daemon = roomy_daemon(Daemon)
    yield daemon
    daemon.end()


def roomy_daemon(start: StartDaemon) -> Daemon:
    """Start a daemon with room for all that tiny models compute in a test.

    No lease on what is read expires while a test waits for it to be given back.
    """
    return start(
        128 * MiB, tiers__region_bytes=MiB, tiers__host__bytes=64 * MiB, leases__read_s=3600.0
    )
