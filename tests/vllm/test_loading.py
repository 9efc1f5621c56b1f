"""Where a worker's loads come from, and what they leave behind."""

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import hit_max, hits, prompt, publish, reached, tierd
from tests.vllm.conftest import StartDaemon, StartEngine, roomy_daemon
from tests.vllm.engines import Request


def blocks_in(daemon: Daemon, tier: str) -> int:
    return sum(each.blocks for each in daemon.status().tiers if each.name == tier)


def test_what_comes_from_disk_again_is_brought_to_memory(
    start_daemon: StartDaemon, start_engine: StartEngine
) -> None:
    daemon = roomy_daemon(start_daemon)
    engine = start_engine(connector=tierd(daemon.address))
    once, twice = Request("once", prompt(31, 500)), Request("twice", prompt(32, 500))
    publish(engine, daemon, once, twice)
    daemon.stop()
    daemon.start()
    reached(engine)
    before = blocks_in(daemon, "host")
    hits(engine, once)
    hits(engine, twice)
    assert blocks_in(daemon, "host") == before
    hits(engine, twice)
    block = daemon.status().namespaces[0].block_tokens
    eventually(lambda: blocks_in(daemon, "host") == before + hit_max(twice) // block)
