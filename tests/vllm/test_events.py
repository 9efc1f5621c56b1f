"""Who listens to an engine's KV events hears what goes into tierd."""

from pathlib import Path

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import hit_max, prompt, tierd
from tests.vllm.conftest import StartEngine
from tests.vllm.engines import BLOCK_TOKENS, Request


def test_what_is_published_is_told_to_those_who_listen(
    shared_daemon: Daemon, start_engine: StartEngine, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/events"
    engine = start_engine(
        connector=tierd(shared_daemon.address),
        kv_events_config={"enable_kv_cache_events": True, "endpoint": endpoint},
    )
    engine.tell("listen", endpoint=endpoint)
    told: dict[tuple[int, ...], str] = {}

    def all_told() -> bool:
        """Ask for another prompt: who has just begun to listen has missed something."""
        asked.append(Request(str(len(asked)), prompt(len(asked), 150)))
        engine.run(asked[-1])
        for event in engine.tell("heard"):
            if event["type"] == "BlockStored" and event["medium"] == "tierd":
                size, tokens = event["block_size"], event["token_ids"]
                for at in range(len(event["block_hashes"])):
                    told[tuple(tokens[at * size : (at + 1) * size])] = event["type"]
        return any(_blocks(each) <= told.keys() for each in asked)

    asked: list[Request] = []
    eventually(all_told)


def _blocks(request: Request) -> set[tuple[int, ...]]:
    """Return the tokens of each block of a prompt that can be found."""
    return {
        tuple(request.prompt[at : at + BLOCK_TOKENS])
        for at in range(0, hit_max(request), BLOCK_TOKENS)
    }
