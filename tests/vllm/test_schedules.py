"""Whatever steps the scheduler takes, chunks, preemptions, aborts: answers stay what they were."""

import pytest

from tests.integration.daemons import Daemon, eventually
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

STEP_TOKENS = 64
"""A step of an engine that computes prompts in chunks: two blocks, or part of one and another."""

FEW_BLOCKS = 22
"""Blocks for three of the six requests that want to run at once."""


@pytest.fixture(scope="module")
def chunked(shared_daemon: Daemon, start_shared_engine: StartEngine) -> list[Engine]:
    """Engines that compute prompts in chunks: two with tierd, and one without."""
    connectors = [tierd(shared_daemon.address)] * 2 + [None]
    return [
        start_shared_engine(connector=each, max_num_batched_tokens=STEP_TOKENS)
        for each in connectors
    ]


@pytest.mark.parametrize("length", [65, 300, 517])
def test_a_prompt_computed_in_chunks(
    shared_daemon: Daemon, chunked: list[Engine], length: int
) -> None:
    first, second, alone = chunked
    request = Request("chunked", prompt(length, length))
    publish(first, shared_daemon, request)
    made = hits(second, request)["chunked"]
    identical(made, Local(alone).after_hit(request, hit_max(request)))


def test_a_hit_and_then_chunks(shared_daemon: Daemon, chunked: list[Engine], local: Local) -> None:
    first, second, _ = chunked
    shared = Request("shared", prompt(1, 170))
    longer = [Request(str(at), [*shared.prompt, *prompt(10 + at, 200 + at)]) for at in range(4)]
    publish(first, shared_daemon, shared)
    made = hits(second, *longer, ends=[160] * 4)
    for request in longer:
        alike(made[request.id], local.computed(request))


@pytest.mark.parametrize("known", [False, True], ids=["computed", "found"])
def test_preempted_requests_end_with_the_same_answer(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local, known: bool
) -> None:
    """There is room for half of the requests only: they push one another out, and come again."""
    daemon = roomy_daemon(start_daemon)
    few = start_engine(
        connector=tierd(daemon.address), num_gpu_blocks_override=FEW_BLOCKS, max_model_len=512
    )
    requests = [Request(str(at), prompt(50 + at, 90 + at), max_tokens=90) for at in range(6)]
    if known:
        publish(start_engine(connector=tierd(daemon.address)), daemon, *requests)
    made = few.run(*requests)
    assert few.tell("told")["preempted"]
    for request in requests:
        alike(made[request.id], local.computed(request))
    eventually(lambda: not daemon.status().leases)


def test_aborted_requests_leave_nothing_behind(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    """Before they are scheduled, while their blocks are brought, and while they generate."""
    daemon = roomy_daemon(start_daemon)
    first, second = (start_engine(connector=tierd(daemon.address)) for _ in range(2))
    known = [Request(f"known {at}", prompt(70 + at, 200 + at), 30) for at in range(4)]
    new = [Request(f"new {at}", prompt(80 + at, 200 + at), 30) for at in range(4)]
    publish(first, daemon, *known)
    for steps in range(5):
        second.add(*known, *new)
        second.tell("step", count=steps)
        second.tell("abort", ids=[each.id for each in (*known[1:], *new[1:])])
        made = second.finish()
        assert set(made) == {"known 0", "new 0"}
        for request in (known[0], new[0]):
            alike(made[request.id], local.computed(request))
        forgetful(second)
    eventually(lambda: not daemon.status().leases)


def test_blocks_of_tierd_that_are_several_of_the_engine(
    start_daemon: StartDaemon, start_engine: StartEngine, local: Local
) -> None:
    """A hit ends where a block of tierd does, and goes on from a local hit inside of one."""
    daemon = roomy_daemon(start_daemon)
    connector = tierd(daemon.address, block_tokens=4 * BLOCK_TOKENS)
    first, second = (start_engine(connector=connector) for _ in range(2))
    request = Request("wide", prompt(90, 4 * 4 * BLOCK_TOKENS + 70))
    first.run(request)
    eventually(lambda: any(each.blocks >= 4 for each in daemon.status().namespaces))
    made = hits(second, request, ends=[4 * 4 * BLOCK_TOKENS])["wide"]
    identical(made, local.after_hit(request, 4 * 4 * BLOCK_TOKENS))
    for local_blocks in (1, 5, 7):
        tokens = local_blocks * BLOCK_TOKENS
        second.tell("local_tokens_max", tokens=tokens)
        made = second.run(request)["wide"]
        assert matched(second)["wide"] == (tokens, 4 * 4 * BLOCK_TOKENS - tokens)
        identical(made, local.after_hit(request, 4 * 4 * BLOCK_TOKENS))
