"""Engines of several workers: each has a part of every block, or some of the layers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemons import eventually
from tests.vllm.asking import (
    hit_max,
    hits,
    identical,
    prompt,
    publish,
    reached,
    tierd,
)
from tests.vllm.conftest import Model, StartDaemon, roomy_daemon
from tests.vllm.engines import Engine, Garage, Request


@pytest.fixture
def wide_garage(vllm_python: Path, tmp_path: Path) -> Iterator[Garage]:
    """Engines of two workers, each with a processor of its own."""
    made = Garage(vllm_python, tmp_path / "garage", VLLM_CPU_OMP_THREADS_BIND="0|1")
    yield made
    made.end()


@pytest.mark.parametrize("way", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_blocks_of_two_workers(
    start_daemon: StartDaemon,
    wide_garage: Garage,
    model: Model,
    tmp_path: Path,
    way: str,
) -> None:
    daemon = roomy_daemon(start_daemon)
    connector = tierd(daemon.address)
    engine = Engine(wide_garage, model("llama"), tmp_path / "log", connector, **{way: 2}).ready()
    try:
        engine.tell("warm_up")
        requests = [Request(str(length), prompt(length, length)) for length in (65, 300)]
        publish(engine, daemon, *requests)
        locally = {each.id: engine.run(each)[each.id] for each in requests}
        for restarted in (False, True):
            if restarted:
                daemon.restart()
                reached(engine)
            for request in requests:
                made = hits(engine, request)[request.id]
                assert locally[request.id].cached == hit_max(request)
                identical(made, locally[request.id])
        eventually(lambda: not daemon.status().leases)
        engine.close()
    finally:
        engine.end()
