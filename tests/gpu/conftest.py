"""A child process with a CUDA driver: the stand-in's, or the machine's."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import TimeoutError, get_context
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gpu import child
from tierd_client.cuda_driver import LIBRARY

Call = Callable[..., Any]

CALL_S: Final = 60.0
SOURCE: Final = Path(__file__).with_name("standin_cuda.c")


@pytest.fixture(scope="session")
def on_standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Call a function of `child` in a process whose driver is the stand-in."""
    directory = tmp_path_factory.mktemp("standin")
    with _process(_compiled(directory), directory) as call:
        yield call


@pytest.fixture
def on_driver_without_device(tmp_path: Path) -> Iterator[Call]:
    """Call a function of `child` in a process whose driver finds no GPU."""
    with _process(_compiled(tmp_path, "-DINIT_RESULT=100"), tmp_path) as call:
        yield call


@pytest.fixture(scope="session")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Call a function of `child` in a process with the machine's driver."""
    with _process(None, tmp_path_factory.mktemp("device")) as call:
        yield call


@pytest.fixture(params=["standin", pytest.param("device", marks=pytest.mark.gpu)])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a function of `child`, on each driver in turn."""
    made: Call = request.getfixturevalue(f"on_{request.param}")
    return made


def _compiled(directory: Path, *more: str) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.fail("these tests compile a stand-in for the CUDA driver: install gcc")
    library = directory / LIBRARY
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-pthread", f"-Wl,-soname,{LIBRARY}"]
    command = [compiler, *flags, *more, "-o", str(library), str(SOURCE)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return library


@contextmanager
def _process(standin: Path | None, directory: Path) -> Iterator[Call]:
    """Keep a child for many calls. One that hangs is ended, and the next call gets another."""
    spawn = get_context("spawn")
    made = [spawn.Pool(1, child.start, (standin, directory))]

    def call(function: Call, *arguments: object) -> Any:
        try:
            return made[-1].apply_async(function, arguments).get(CALL_S)
        except TimeoutError:
            made[-1].terminate()
            made.append(spawn.Pool(1, child.start, (standin, directory)))
            raise

    yield call
    for pool in made:
        pool.terminate()
        pool.join()
