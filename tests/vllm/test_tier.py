"""vLLM's own tiered offloading with tierd as the second tier, in real engines.

vLLM's first tier, in the memory of an engine, finds what the engine itself stored: what only a
tier can have found, another engine has to ask for.
"""

import signal
from itertools import count
from os import kill
from typing import Any

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.vllm.asking import Local, alike, held_tokens, hit_max, identical, prompt
from tests.vllm.conftest import StartEngine, roomy_daemon
from tests.vllm.engines import BLOCK_TOKENS, Engine, Made, Request
from tierd.core.units import MiB


def offloading(
    address: str, chunk_tokens: int = BLOCK_TOKENS, cpu_bytes: int = 8 * MiB, **tier: Any
) -> dict[str, Any]:
    """Return the settings for an engine with vLLM's tiers, of which a tierd daemon is one."""
    entry = {
        "type": "tierd",
        "address": address,
        **tier,
    }
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "OffloadOnCpu",
            "spec_module_path": "tierd_bench.ttft.offload_on_cpu",
            "cpu_bytes_to_use": cpu_bytes,
            "block_size": chunk_tokens,
            "secondary_tiers": [entry],
        },
    }


def store(engine: Engine, daemon: Daemon, request: Request) -> Made:
    """Have `engine` compute what is new, and take steps until `daemon` has it."""
    wanted = held_tokens(daemon) + len(request.prompt) // BLOCK_TOKENS * BLOCK_TOKENS
    made = engine.run(request)[request.id]
    _step_until_held(engine, daemon, wanted)
    return made


def _step_until_held(engine: Engine, daemon: Daemon, tokens: int) -> None:
    def held() -> bool:
        engine.tell("step", count=1)
        return held_tokens(daemon) >= tokens

    eventually(held)


@pytest.fixture(scope="module")
def local(start_shared_engine: StartEngine) -> Local:
    """An engine of the same model that knows of no tier."""
    return Local(start_shared_engine())


def test_another_engine_goes_on_from_what_was_stored(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    daemon = roomy_daemon(start_daemon)
    requests = [Request(str(length), prompt(length, length)) for length in (33, 100, 257, 700)]
    first = start_engine(connector=offloading(daemon.address))
    for request in requests:
        identical(store(first, daemon, request), local.computed(request))
    first.close()
    daemon.restart()
    second = start_engine(connector=offloading(daemon.address))
    for request in requests:
        made = second.run(request)[request.id]
        assert made.cached == hit_max(request)
        identical(made, local.after_hit(request, hit_max(request)))
    second.close()


def test_of_a_prompt_that_is_known_in_part_the_rest_is_found(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    daemon = roomy_daemon(start_daemon)
    whole = Request("whole", prompt(1, 300))
    start = Request("start", whole.prompt[:100])
    other = Request("other", [*whole.prompt[:200], *prompt(2, 60)])
    connector = offloading(daemon.address, chunk_tokens=2 * BLOCK_TOKENS)
    first = start_engine(connector=connector)
    first.run(whole)
    _step_until_held(first, daemon, 256)
    second = start_engine(connector=connector)
    assert second.run(start)["start"].cached == 64
    second.tell("told")
    made = second.run(whole)["whole"]
    assert second.tell("told")["matches"][-1] == ["whole", 96, 160]
    assert made.cached == 256
    identical(made, local.after_hit(whole, 256))
    made = second.run(other)["other"]
    assert made.cached == 192
    alike(made, local.computed(other))
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("how", "steps"), [(signal.SIGKILL, 1), (signal.SIGKILL, 3), (signal.SIGSTOP, 1)]
)
def test_a_daemon_that_goes_away_costs_hits_and_no_more(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local, how: int, steps: int
) -> None:
    daemon = roomy_daemon(start_daemon)
    known, new = Request("known", prompt(1, 300)), Request("new", prompt(2, 300))
    first = start_engine(connector=offloading(daemon.address))
    store(first, daemon, known)
    first.close()
    second = start_engine(connector=offloading(daemon.address))
    second.add(known)
    second.tell("step", count=steps)
    kill(daemon.pid, how)
    alike(second.finish()["known"], local.computed(known))
    identical(second.run(new)["new"], local.computed(new))
    if how == signal.SIGSTOP:
        kill(daemon.pid, signal.SIGCONT)
    else:
        daemon.kill()
        daemon.start()
    before = held_tokens(daemon)
    seeds = count(3)

    def stores_again() -> bool:
        second.run(Request("later", prompt(next(seeds), 300)))
        second.tell("step", count=3)
        return held_tokens(daemon) > before

    eventually(stores_again)
    second.close()


def test_what_is_damaged_on_disk_is_computed(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    daemon = roomy_daemon(start_daemon)
    request = Request("damaged", prompt(1, 300))
    first = start_engine(connector=offloading(daemon.address))
    store(first, daemon, request)
    first.close()
    daemon.stop()
    for segment in daemon.segments():
        held = bytearray(segment.read_bytes())
        for at in range(2048, len(held), 4096):
            held[at] ^= 0xFF
        segment.write_bytes(held)
    daemon.start()
    second = start_engine(connector=offloading(daemon.address))
    made = second.run(request)["damaged"]
    assert made.cached == 0
    alike(made, local.computed(request))
    second.close()


def test_a_daemon_that_lost_all_is_offered_all_again(
    start_daemon: StartDaemon, start_engine: StartEngine
) -> None:
    daemon = start_daemon(tiers__region_bytes=MiB, tiers__host__bytes=64 * MiB)
    turn = Request("turn", prompt(1, 300))
    longer = Request("longer", [*turn.prompt, *prompt(2, 100)])
    first = start_engine(connector=offloading(daemon.address))
    store(first, daemon, turn)
    daemon.restart()
    assert held_tokens(daemon) == 0

    def holds_all() -> bool:
        first.run(longer)
        first.tell("step", count=3)
        return held_tokens(daemon) == 384

    eventually(holds_all)
    second = start_engine(connector=offloading(daemon.address))
    assert second.run(longer)["longer"].cached == 384
    first.close()
    second.close()


def test_more_requests_than_there_is_room_for(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    """They push one another out of the engine, and their blocks out of vLLM's first tier."""
    daemon = roomy_daemon(start_daemon)
    requests = [Request(str(at), prompt(50 + at, 90 + at), max_tokens=90) for at in range(6)]
    few = start_engine(
        connector=offloading(daemon.address, cpu_bytes=MiB // 2),
        num_gpu_blocks_override=22,
        max_model_len=512,
        max_num_batched_tokens=64,
    )
    made: dict[str, Made] = {}
    for steps in (3, 9):
        few.add(*requests)
        few.tell("step", count=steps)
        few.tell("abort", ids=["1", "4"])
        made = few.finish()
        assert few.tell("told")["preempted"]
        for id, one in made.items():
            alike(one, local.computed(requests[int(id)]))
    assert set(made) == {"0", "2", "3", "5"}
    assert held_tokens(daemon)
    few.close()


def test_layers_of_several_kinds(
    start_daemon: StartDaemon, start_shared_engine: StartEngine
) -> None:
    """Blocks of layers with a window are stored with gaps: each is found on its own."""
    daemon = roomy_daemon(start_daemon)
    request = Request("hybrid", prompt(1, 300))
    first = start_shared_engine("gemma3", offloading(daemon.address))
    first.run(request)
    _step_until_held(first, daemon, 10 * BLOCK_TOKENS)
    first.close()
    second = start_shared_engine("gemma3", offloading(daemon.address))
    made = second.run(request)["hybrid"]
    assert made.cached == hit_max(request)
    identical(made, Local(start_shared_engine("gemma3")).after_hit(request, hit_max(request)))
    second.close()


def test_an_engine_that_started_before_its_daemon(
    start_daemon: StartDaemon, start_engine: StartEngine
) -> None:
    daemon = start_daemon(tiers__region_bytes=MiB, tiers__host__bytes=64 * MiB)
    daemon.stop()
    engine = start_engine(connector=offloading(daemon.address))
    engine.run(Request("before", prompt(1, 100)))
    daemon.start()
    seeds = count(2)

    def stores() -> bool:
        engine.run(Request("after", prompt(next(seeds), 100)))
        engine.tell("step", count=3)
        return held_tokens(daemon) > 0

    eventually(stores)
    engine.close()
