"""Who listens to an engine's KV events hears what goes into tierd, and what is found gone."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import forgetful, hit_max, prompt, tierd
from tests.vllm.conftest import StartDaemon, StartEngine
from tests.vllm.engines import BLOCK_TOKENS, Engine, Request
from tierd.core.units import MiB


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """A daemon that has forgotten everything when it is restarted."""
    return start_daemon(tiers__region_bytes=MiB, tiers__host__bytes=64 * MiB)


@pytest.fixture
def engine(daemon: Daemon, start_engine: StartEngine, tmp_path: Path) -> Engine:
    """An engine whose events are listened to."""
    endpoint = f"ipc://{tmp_path}/events"
    engine = start_engine(
        connector=tierd(daemon.address),
        kv_events_config={"enable_kv_cache_events": True, "endpoint": endpoint},
    )
    engine.tell("listen", endpoint=endpoint)
    return engine


def test_what_is_published_and_what_is_found_gone_is_told(daemon: Daemon, engine: Engine) -> None:
    stored: dict[tuple[int, ...], Any] = {}
    removed: list[Any] = []
    asked: list[Request] = []

    def listen() -> None:
        for event in engine.tell("heard"):
            if event.get("medium") != "tierd":
                continue
            if event["type"] == "BlockRemoved":
                removed.extend(event["block_hashes"])
                continue
            size, tokens = event["block_size"], event["token_ids"]
            for at, block_hash in enumerate(event["block_hashes"]):
                stored[tuple(tokens[at * size : (at + 1) * size])] = block_hash

    def all_stored() -> bool:
        """Ask for another prompt: who has just begun to listen has missed something."""
        asked.append(Request(str(len(asked)), prompt(len(asked), 150)))
        engine.run(asked[-1])
        listen()
        return _blocks(asked[-1]) <= stored.keys()

    def all_removed() -> bool:
        forgetful(engine).run(asked[-1])
        listen()
        return {stored[block] for block in _blocks(asked[-1])} <= set(removed)

    eventually(all_stored)
    assert not removed
    daemon.restart()
    eventually(all_removed)


def _blocks(request: Request) -> set[tuple[int, ...]]:
    """Return the tokens of each block of a prompt that can be found."""
    return {
        tuple(request.prompt[at : at + BLOCK_TOKENS])
        for at in range(0, hit_max(request), BLOCK_TOKENS)
    }
