"""Models with layers of several kinds, dtypes and ranks: a hit is a local hit with each."""

from typing import Any

import pytest
import torch

from tests.integration.daemons import Daemon
from tests.vllm.asking import (
    Local,
    alike,
    forgetful,
    hit_max,
    hits,
    identical,
    matched,
    prompt,
    publish,
    tierd,
)
from tests.vllm.conftest import StartDaemon, StartEngine, roomy_daemon
from tests.vllm.engines import BLOCK_TOKENS, Engine, Request
from tests.vllm.models import WINDOW

HYBRID = "gemma3"


@pytest.fixture(scope="module")
def hybrids(shared_daemon: Daemon, start_shared_engine: StartEngine) -> list[Engine]:
    """Engines of a model with windows in every other layer: two with tierd, and one without."""
    connectors = [tierd(shared_daemon.address)] * 2 + [None]
    engines = [start_shared_engine(HYBRID, connector=each) for each in connectors]
    for engine in engines:
        groups = {group["spec"] for group in engine.tell("layout")["groups"]}
        assert groups == {"FullAttentionSpec", "SlidingWindowSpec"}
    return engines


@pytest.mark.parametrize("length", [40, WINDOW, 100, 300, 700])
def test_a_hybrid_model(shared_daemon: Daemon, hybrids: list[Engine], length: int) -> None:
    first, second, alone = hybrids
    request = Request("hybrid", prompt(length, length))
    publish(first, shared_daemon, request)
    made = hits(second, request)["hybrid"]
    identical(made, Local(alone).after_hit(request, hit_max(request)))


def test_a_hybrid_model_goes_on_otherwise(shared_daemon: Daemon, hybrids: list[Engine]) -> None:
    """The window's blocks are those before the end of the hit, wherever that is."""
    first, second, alone = hybrids
    request = Request("shared", prompt(1, 700))
    publish(first, shared_daemon, request)
    for shared in (70, 200, 410):
        other = Request(f"{shared}", [*request.prompt[:shared], *prompt(shared, 100)])
        end = shared // BLOCK_TOKENS * BLOCK_TOKENS
        made = hits(second, other, ends=[end])[other.id]
        alike(made, Local(alone).computed(other))


def test_turns_with_a_hybrid_model(shared_daemon: Daemon, hybrids: list[Engine]) -> None:
    """Some of it in the engine's own cache, whose windows have moved on, and some in tierd."""
    history = prompt(2, 90)
    found = 0
    for at in range(5):
        engine = hybrids[at % 2]
        turn = Request(str(at), [*history, *prompt(20 + at, 50)], max_tokens=40)
        made = engine.run(turn)[turn.id]
        found += matched(engine)[turn.id][1]
        alike(made, Local(hybrids[2]).computed(turn))
        history = [*turn.prompt, *made.tokens]
    assert found


def test_several_of_a_hybrid_model_at_once(shared_daemon: Daemon, hybrids: list[Engine]) -> None:
    first, second, alone = hybrids
    requests = [Request(str(at), prompt(30 + at, 60 + 90 * at)) for at in range(6)]
    publish(first, shared_daemon, *requests)
    made = hits(second, *requests)
    wanted = Local(alone).after_hits(*requests)
    for request in requests:
        alike(made[request.id], wanted[request.id])


@pytest.mark.parametrize("manager", [False, True], ids=["hybrid manager", "one group"])
def test_a_hybrid_model_in_chunks_and_short_of_memory(
    start_daemon: StartDaemon, start_engine: StartEngine, hybrids: list[Engine], manager: bool
) -> None:
    daemon = roomy_daemon(start_daemon)
    few = start_engine(
        HYBRID,
        connector=tierd(daemon.address),
        disable_hybrid_kv_cache_manager=manager,
        max_num_batched_tokens=96,
        num_gpu_blocks_override=40,
        max_model_len=512,
    )
    requests = [Request(str(at), prompt(40 + at, 90 + 20 * at), max_tokens=90) for at in range(8)]
    for _ in range(2):
        made = few.run(*requests)
        for request in requests:
            alike(made[request.id], Local(hybrids[2]).computed(request))
        forgetful(few)
    assert few.tell("told")["preempted"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types(start_daemon: StartDaemon, start_engine: StartEngine, dtype: str) -> None:
    daemon = roomy_daemon(start_daemon)
    first, second = (start_engine(connector=tierd(daemon.address), dtype=dtype) for _ in range(2))
    local = Local(start_engine(dtype=dtype))
    for length in (65, 300):
        request = Request(str(length), prompt(length, length))
        publish(first, daemon, request)
        made = hits(second, request)[request.id]
        identical(made, local.after_hit(request, hit_max(request)))


@pytest.mark.skipif(
    not torch.cpu._is_amx_tile_supported(),  # noqa: SLF001
    reason="vLLM has no prefix cache for latent attention on CPUs without AMX",
)
def test_latent_attention(start_daemon: StartDaemon, start_engine: StartEngine) -> None:
    """One row a token, of which no head has a part of its own."""
    daemon = roomy_daemon(start_daemon)
    connectors = [tierd(daemon.address)] * 2 + [None]
    first, second, alone = (
        start_engine("deepseek", connector=each, dtype="bfloat16") for each in connectors
    )
    assert [group["spec"] for group in first.tell("layout")["groups"]] == ["MLAAttentionSpec"]
    for length in (65, 300):
        request = Request(str(length), prompt(length, length))
        publish(first, daemon, request)
        made = hits(second, request)[request.id]
        identical(made, Local(alone).after_hit(request, hit_max(request)))


def _wide(daemon: Daemon) -> dict[str, Any]:
    return tierd(daemon.address, block_tokens=2 * BLOCK_TOKENS)


def test_engines_of_different_models_share_nothing(
    shared_daemon: Daemon, start_engine: StartEngine
) -> None:
    """Their prompts have the same hashes."""
    connector = tierd(shared_daemon.address)
    request = Request("same", prompt(3, 200))
    publish(start_engine("llama", connector=connector), shared_daemon, request)
    for other in (
        start_engine("qwen3", connector=connector),
        start_engine("llama", connector=connector, dtype="bfloat16"),
        start_engine("llama", connector=_wide(shared_daemon), block_size=2 * BLOCK_TOKENS),
    ):
        assert other.run(request)["same"].cached == 0
