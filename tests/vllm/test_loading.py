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


def test_the_daemon_knows_what_it_did_not_have(
    start_daemon: StartDaemon, start_engine: StartEngine
) -> None:
    daemon = roomy_daemon(start_daemon)
    engine = start_engine(connector=tierd(daemon.address))
    known = Request("known", prompt(41, 500))
    publish(engine, daemon, known)
    before = counts(daemon)
    longer = Request("longer", [*known.prompt, *prompt(42, 200)])
    hits(engine, longer, ends=[hit_max(known)])
    asked, missed = (after - was for after, was in zip(counts(daemon), before, strict=True))
    assert missed == hit_max(longer) - hit_max(known)
    assert asked == hit_max(longer)


def counts(daemon: Daemon) -> tuple[int, int]:
    """Return how many tokens were asked for, and not there."""
    (namespace,) = daemon.status().namespaces
    return namespace.tokens_asked, namespace.tokens_missed
