"""How the connector is named, and what it is told."""

from typing import Any

import pytest

from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import forgetful, hits, matched, prompt, publish, tierd
from tests.vllm.conftest import StartEngine
from tests.vllm.engines import BLOCK_TOKENS, Request


def test_the_name_alone_is_enough(shared_daemon: Daemon, start_engine: StartEngine) -> None:
    """vLLM finds the class by an entry point of the installed package."""
    connector = tierd(shared_daemon.address)
    del connector["kv_connector_module_path"], connector["kv_load_failure_policy"]
    engine = start_engine(connector=connector)
    request = Request("named", prompt(1, 200))
    publish(engine, shared_daemon, request)
    hits(engine, request)


@pytest.mark.parametrize(
    ("wrong", "value", "remedy"),
    [
        ({"adress": "/run/tierd.sock"}, "/run/tierd.sock", "address"),
        ({"block_tokens": "many"}, "many", "int"),
        ({"block_tokens": BLOCK_TOKENS + 1}, str(BLOCK_TOKENS + 1), "multiple"),
        ({"block_tokens": -BLOCK_TOKENS}, str(-BLOCK_TOKENS), "multiple"),
        ({"deadline_s": 0}, "0", "more than 0"),
        ({"deadline_s": "soon"}, "soon", "float"),
        ({"tenant": 7}, "7", "str"),
        ({"address": "udp://somewhere"}, "udp://somewhere", "host:port"),
    ],
    ids=str,
)
def test_what_it_does_not_understand_it_refuses(
    shared_daemon: Daemon, start_engine: StartEngine, wrong: dict[str, Any], value: str, remedy: str
) -> None:
    with pytest.raises(pytest.fail.Exception) as refused:
        start_engine(connector=tierd(shared_daemon.address, **wrong))
    said = next(line for line in str(refused.value).splitlines()[::-1] if "InvalidRequest" in line)
    (field,) = wrong
    for word in (field, value, remedy):
        assert word in said, said


def test_a_consumer_publishes_nothing_and_a_producer_loads_nothing(
    shared_daemon: Daemon, start_engine: StartEngine
) -> None:
    both, consumer, producer = (
        start_engine(connector={**tierd(shared_daemon.address), "kv_role": role})
        for role in ("kv_both", "kv_consumer", "kv_producer")
    )
    read, written = Request("read", prompt(2, 200)), Request("written", prompt(3, 200))
    consumer.run(read)
    publish(producer, shared_daemon, written)
    assert both.run(read)["read"].cached == 0
    hits(both, written)
    hits(consumer, written)
    assert forgetful(producer).run(written)["written"].cached == 0
    assert matched(producer)["written"] == (0, 0)
    eventually(lambda: not shared_daemon.status().leases)


def test_tenants_and_salts_share_nothing(shared_daemon: Daemon, start_engine: StartEngine) -> None:
    request = Request("apart", prompt(4, 200))
    for own in ({"tenant": "a"}, {"tenant": "b"}, {"salt": "a"}):
        engine = start_engine(connector=tierd(shared_daemon.address, **own))
        publish(engine, shared_daemon, request)
        hits(engine, request)
