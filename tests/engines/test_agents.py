"""AgentSession with a model in this process, and with a server.

What is generated is compared with the model's own cache of the same length; what the daemon
hears is read off policies that write it down.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from math import inf, nan
from typing import Any, Final

import pytest
from transformers import DynamicCache

from tests.engines.completions import CompletionsServer, Wrong, completions_server
from tests.engines.noting import SETTINGS, heard
from tests.engines.tiny_models import BLOCK_TOKENS, NEW_TOKENS, answer, llama, own_prefix, prompt
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tierd.core.notes import BlockClass
from tierd.core.units import KiB, MiB
from tierd_client import Client, InvalidRequest
from tierd_client.agents import AgentSession, Engine, EngineFailed, Sampling, Segment
from tierd_client.engines.local_engine import LocalEngine
from tierd_client.engines.server_engine import ServerEngine

BRIEF: Final = Sampling(tokens_max=NEW_TOKENS)
SYSTEM: Final = prompt(40, seed=3)
TOOLS: Final = prompt(30, seed=5)
BIG: Final = {"tiers__host__bytes": 32 * MiB, "tiers__region_bytes": 1024 * KiB}
OPTIONS: Final = ((5, 9, 11), (5, 9, 12, 13), (6, 7), (8, 8, 8))


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture
def noting_daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(**BIG, **SETTINGS)


@pytest.fixture
def engine(noting_daemon: Daemon, model: Any) -> Iterator[LocalEngine]:
    with noting_daemon.client() as client:
        yield LocalEngine(client, model, block_tokens=BLOCK_TOKENS)


@pytest.fixture
def server(model: Any) -> Iterator[CompletionsServer]:
    with completions_server(model) as server:
        yield server


def _own(model: Any, tokens: list[int], reused: int) -> list[int]:
    """Return what the model says after `tokens`, of which it computed the first at once."""
    empty = DynamicCache(config=model.config)
    return answer(model, tokens, own_prefix(model, tokens[:reused]) if reused else empty)[0]


def _session(engine: Engine) -> AgentSession:
    return AgentSession(engine, system=SYSTEM, tools=TOOLS)


def _hint(daemon: Daemon, what: str, state: str = "") -> dict[str, Any]:
    """Return the one hint of a kind that the daemon hears, once it does."""

    def found() -> list[dict[str, Any]]:
        return [each for each in heard(daemon, what) if each.get("state", "") == state]

    eventually(found)
    assert len(found()) == 1
    return found()[0]


# ---- the history


def test_a_step_computes_only_what_no_step_before_did(engine: LocalEngine, model: Any) -> None:
    session = _session(engine)
    session.add("user", prompt(20))
    first = session.generate(BRIEF)
    assert (first.reused, first.by_tier) == (0, {})
    session.add("tool_result", prompt(50, seed=11))
    before = list(session.tokens)
    # The KV of the last token that was said is computed in this step.
    whole = (70 + 20 + NEW_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    second = session.generate(BRIEF)
    assert (second.reused, second.by_tier) == (whole, {"host": whole})
    assert second.tokens == _own(model, before, whole)
    assert list(session.tokens) == before + second.tokens
    assert 0 < second.ttft_s <= second.seconds


def test_the_history_consists_of_segments(engine: LocalEngine) -> None:
    session = _session(engine)
    session.add("user", [])
    session.add("user", prompt(10))
    said = session.generate(Sampling(tokens_max=6)).tokens
    assert session.segments == (
        Segment("system", 0, 40),
        Segment("tools", 40, 70),
        Segment("user", 70, 80),
        Segment("answer", 80, 86),
    )
    end = session.generate(Sampling(tokens_max=6), thoughts_end=said[0]).tokens
    thoughts = end.index(said[0]) + 1 if said[0] in end else 0
    kinds = [segment.kind for segment in list(session.segments)[4:]]
    assert kinds == ["thinking"] * (thoughts > 0) + ["answer"] * (thoughts < 6)


def test_thoughts_are_told_from_the_answer_by_the_token_that_ends_them(model: Any) -> None:
    with completions_server(model) as server:
        session = _session(ServerEngine(server.url, "m"))
        server.next_token = lambda tokens, allowed: 90 + len(tokens)  # type: ignore[method-assign]
        said = session.generate(Sampling(tokens_max=5), thoughts_end=161).tokens
    assert said == [160, 161, 162, 163, 164]
    assert session.segments[2:] == (Segment("thinking", 70, 72), Segment("answer", 72, 75))


@pytest.mark.parametrize(
    ("parts", "classes"),
    [
        ([], []),
        ([("system", 15)], []),
        ([("system", 16)], ["system"]),
        ([("system", 15), ("user", 1)], ["user"]),
        ([("system", 16), ("user", 15)], ["system"]),
        ([("system", 20), ("thinking", 3), ("answer", 41)], ["system", *["answer"] * 3]),
    ],
)
def test_a_block_is_of_the_kind_of_its_last_token(
    parts: list[tuple[BlockClass, int]], classes: list[BlockClass]
) -> None:
    session = AgentSession(ServerEngine("http://localhost", "m"))
    for kind, count in parts:
        session.add(kind, prompt(count))
    assert session.classes(16) == classes


def test_rewinding_tries_a_step_again_from_what_is_held(engine: LocalEngine) -> None:
    session = _session(engine)
    session.add("user", prompt(30))
    once = session.generate(BRIEF)
    session.rewind(100)
    assert session.segments[-1] == Segment("user", 70, 100)
    again = session.generate(BRIEF)
    assert again.tokens == once.tokens
    assert again.reused == 96
    session.rewind(75)
    assert session.segments[-1] == Segment("user", 70, 75)
    for length in (69, 76):
        with pytest.raises(InvalidRequest):
            session.rewind(length)


def test_dropped_thoughts_leave_what_follows_them(
    engine: LocalEngine, noting_daemon: Daemon
) -> None:
    session = _session(engine)
    session.add("user", prompt(12))
    session.generate(BRIEF, kind="thinking")
    said = session.generate(BRIEF).tokens
    session.add("thinking", [6, 6, 6, 6])
    session.add("user", [7, 8])
    gone = list(session.tokens)
    session.drop("thinking")
    session.drop("thinking")
    assert list(session.tokens) == [*SYSTEM, *TOOLS, *prompt(12), *said, 7, 8]
    assert [s.kind for s in session.segments] == ["system", "tools", "user", "answer", "user"]
    keys = [key.hex() for key in engine.namespace.keys(gone)]
    assert _hint(noting_daemon, "cool")["keys"] == keys[82 // 16 : (len(gone) - 7) // 16]


# ---- hints


def test_the_daemon_hears_of_kinds_and_pauses(engine: LocalEngine, noting_daemon: Daemon) -> None:
    session = _session(engine)
    session.add("user", prompt(20))
    session.generate(BRIEF, kind="thinking")
    with session.tool():
        told = _hint(noting_daemon, "note", "tool_call")
    assert told["keys"] == [key.hex() for key in engine.namespace.keys(session.tokens)]
    assert told["classes"] == ["system", "system", "tools", "tools", "user", "thinking", "thinking"]
    assert _hint(noting_daemon, "paused", "tool_call")["keys"] == told["keys"]
    session.add("tool_result", prompt(16))
    session.generate(BRIEF)
    session.turn_ended()
    assert _hint(noting_daemon, "note", "turn_ended")["classes"][7:] == ["tool_result", "answer"]
    assert heard(noting_daemon, "hinted") == []


def test_blocks_are_asked_for_before_a_tool_should_be_back(
    engine: LocalEngine, noting_daemon: Daemon
) -> None:
    session = _session(engine)
    session.generate(BRIEF)
    with session.tool(expected_s=1.1):
        keys = _hint(noting_daemon, "hinted")["keys"]
    assert keys == [key.hex() for key in engine.namespace.keys(session.tokens)]
    # It waits for a tool, and when that is nearly over it still does.
    eventually(lambda: len(heard(noting_daemon, "note")) == 2)
    assert [each["state"] for each in heard(noting_daemon, "note")] == ["tool_call"] * 2
    assert heard(noting_daemon, "paused") == [], "nothing is left to be guessed"


def test_a_tool_that_is_back_early_has_nothing_asked_for(
    engine: LocalEngine, noting_daemon: Daemon
) -> None:
    session = _session(engine)
    session.generate(BRIEF)
    with session.tool(expected_s=59), pytest.raises(ZeroDivisionError), session.tool(600):
        raise ZeroDivisionError
    # One that takes minutes is no reason to keep its agent's blocks in memory.
    _hint(noting_daemon, "note", "turn_ended")
    _hint(noting_daemon, "note", "tool_call")
    assert heard(noting_daemon, "hinted") == []


def test_a_session_that_is_over_leaves_what_others_begin_with(
    engine: LocalEngine, noting_daemon: Daemon
) -> None:
    with _session(engine) as session:
        session.add("user", prompt(40))
        session.generate(BRIEF)
    held = (110 + NEW_TOKENS - 1) // 16
    keys = [key.hex() for key in engine.namespace.keys(session.tokens)]
    assert _hint(noting_daemon, "cool")["keys"] == keys[70 // 16 : held]
    session.end()
    for call in (session.branch, lambda: session.add("user", [1]), lambda: session.generate(BRIEF)):
        with pytest.raises(InvalidRequest, match="over"):
            call()
    assert len(heard(noting_daemon, "cool")) == 1


def test_under_pressure_ended_sessions_go_and_their_beginning_stays(
    start_daemon: StartDaemon, model: Any
) -> None:
    # 22 blocks of 12 KiB: 4 that both begin with, 7 of each, and 7 of a third that has not room.
    daemon = start_daemon(tiers__host__bytes=22 * 12 * KiB, tiers__region_bytes=24 * KiB)
    with daemon.client() as client:
        engine = LocalEngine(client, model, block_tokens=BLOCK_TOKENS)
        live, ended = _session(engine), _session(engine)
        live.add("user", prompt(90))
        ended.add("user", prompt(90, seed=13))
        live.generate(BRIEF)
        ended.generate(BRIEF)  # Used last, so recency alone would keep it.
        ended.end()
        other = AgentSession(engine, system=prompt(7 * BLOCK_TOKENS + 1, seed=17))
        other.generate(Sampling(tokens_max=1))
        assert client.status().tiers[0].evictions > 0
        kept = (160 + NEW_TOKENS - 1) // BLOCK_TOKENS
        assert engine.namespace.match(live.tokens).blocks == kept
        assert 4 <= engine.namespace.match(ended.tokens).blocks < kept


# ---- branches


def test_a_branch_goes_on_from_what_its_parent_computed(engine: LocalEngine, model: Any) -> None:
    parent = _session(engine)
    parent.add("user", prompt(50))
    parent.generate(BRIEF)
    branch = parent.branch()
    branch.add("user", prompt(10, seed=19))
    before = list(branch.tokens)
    whole = (120 + NEW_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    step = branch.generate(BRIEF)
    assert step.reused == whole
    assert step.tokens == _own(model, before, whole)
    assert len(parent.tokens) == 120 + NEW_TOKENS
    assert parent.segments == branch.segments[:4]


def test_what_relatives_need_stays_until_the_last_has_ended(
    engine: LocalEngine, noting_daemon: Daemon
) -> None:
    parent = _session(engine)
    parent.add("user", prompt(57))  # One token short of a block.
    branches = [parent.branch() for _ in range(2)]
    for seed, branch in enumerate(branches):
        branch.add("user", prompt(33, seed=23 + seed)[1:])
        branch.generate(Sampling(tokens_max=1))
    keys = [[key.hex() for key in engine.namespace.keys(branch.tokens)] for branch in branches]
    parent.end()
    branches[0].end()
    assert _hint(noting_daemon, "cool")["keys"] == keys[0][7:9]
    branches[1].end()
    eventually(lambda: len(heard(noting_daemon, "cool")) == 2)
    assert heard(noting_daemon, "cool")[1]["keys"] == keys[1][4:9]


# ---- engines that fail, and others


def test_without_a_daemon_all_is_computed_and_nothing_fails(
    start_daemon: StartDaemon, model: Any
) -> None:
    daemon = start_daemon(**BIG)
    with daemon.client() as client:
        session = _session(LocalEngine(client, model, block_tokens=BLOCK_TOKENS))
        session.generate(BRIEF)
        daemon.kill()
        before = list(session.tokens)
        with session.tool():
            step = session.generate(BRIEF)
        assert (step.reused, step.tokens) == (0, _own(model, before, 0))
        session.end()


def test_sessions_of_a_loop_share_an_engine(engine: LocalEngine, model: Any) -> None:
    async def step(seed: int) -> list[int]:
        session = _session(engine)
        session.add("user", prompt(20, seed=seed))
        with session.tool(expected_s=5):
            await asyncio.sleep(0)
        generated = await asyncio.to_thread(session.generate, BRIEF)
        before = list(session.tokens[: -len(generated.tokens)])
        assert generated.tokens == _own(model, before, generated.reused)
        return generated.tokens

    async def steps() -> list[list[int]]:
        return await asyncio.gather(*(step(seed) for seed in (2, 7, 29)))

    assert len(asyncio.run(steps())) == 3


def test_what_is_sampled_follows_from_the_seed(engine: LocalEngine) -> None:
    session = _session(engine)
    session.generate(BRIEF)  # Whether its prompt was computed at once or not may round otherwise.

    def said(seed: int) -> list[int]:
        session.rewind(70)
        warm = Sampling(tokens_max=NEW_TOKENS, temperature=2.0, seed=seed)
        return session.generate(warm).tokens

    assert said(0) == said(0)
    assert said(0) != said(1)


def test_generation_ends_with_a_stop(engine: LocalEngine, server: CompletionsServer) -> None:
    said = _session(engine).generate(BRIEF).tokens
    stops = Sampling(tokens_max=NEW_TOKENS, stops=(said[3],))
    ended = said[: said.index(said[3]) + 1]
    assert _session(engine).generate(stops).tokens == ended
    assert _session(ServerEngine(server.url, "m")).generate(stops).tokens == ended


def test_a_server_reuses_by_itself_and_hears_no_hints(
    server: CompletionsServer, model: Any
) -> None:
    session = _session(ServerEngine(server.url, "m", key="let me in"))
    first = session.generate(BRIEF)
    assert first.tokens == _own(model, [*SYSTEM, *TOOLS], 0)
    assert (first.reused, first.by_tier) == (0, {})
    with session.tool(expected_s=0.5):
        session.add("tool_result", prompt(16))
    second = session.generate(BRIEF)
    assert (second.reused, second.by_tier) == (64, {"engine": 64})
    assert 0 < second.ttft_s <= second.seconds
    session.turn_ended()
    session.end()
    assert len(server.requests) == 2


@pytest.mark.parametrize("depth", [1, 3, 20])
def test_one_of_the_options_comes_out(
    engine: LocalEngine, server: CompletionsServer, depth: int
) -> None:
    choice = Sampling(tokens_max=1, options=OPTIONS)
    session = _session(engine)
    session.add("user", prompt(depth))
    chosen = tuple(session.generate(choice).tokens)
    assert chosen in OPTIONS
    other = _session(ServerEngine(server.url, "m"))
    other.add("user", prompt(depth))
    assert tuple(other.generate(choice).tokens) == chosen
    # Only where options part is there something to ask.
    assert len(server.requests) == 1 + (chosen[0] == 5)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Sampling(tokens_max=0), "tokens_max"),
        (lambda: Sampling(temperature=-1), "temperature"),
        (lambda: Sampling(options=((1, 2), (1,))), "options"),
        (lambda: Sampling(options=((),)), "an empty one"),
        (lambda: _session(ServerEngine("", "m")).add("system prompt", [1]), "kind"),  # type: ignore[arg-type]
        (lambda: AgentSession(ServerEngine("", "m")).generate(BRIEF), "history"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        make()


@pytest.mark.parametrize("expected_s", [-0.1, nan, inf, 24 * 3600 + 1])
def test_a_tool_that_no_time_is_known_of_is_refused_by_name(expected_s: float) -> None:
    session = _session(ServerEngine("http://localhost", "m"))
    refused = pytest.raises(InvalidRequest, match=f"expected_s is {expected_s}: give 0 to 86400")
    with refused, session.tool(expected_s):
        raise AssertionError("it begins")


@pytest.mark.parametrize("wrong", ["refuses", "breaks off", "tells no tokens", "says an error"])
def test_a_server_that_fails_leaves_the_history_as_it_was(
    server: CompletionsServer, wrong: Wrong
) -> None:
    session = _session(ServerEngine(server.url, "m"))
    session.add("user", prompt(5))
    before, segments = list(session.tokens), session.segments
    server.wrong = wrong
    with pytest.raises(EngineFailed, match=server.url):
        session.generate(BRIEF)
    assert (list(session.tokens), session.segments) == (before, segments)
    server.wrong = ""
    assert session.generate(BRIEF).tokens


def test_a_server_that_is_away_is_told_with_its_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    session = _session(ServerEngine(f"http://127.0.0.1:{port}/", "m"))
    with pytest.raises(EngineFailed, match="start the server"):
        session.generate(BRIEF)
    assert len(session.tokens) == 70


def test_blocks_come_back_in_a_client_of_their_own(noting_daemon: Daemon, model: Any) -> None:
    def step(client: Client) -> int:
        session = _session(LocalEngine(client, model, block_tokens=BLOCK_TOKENS))
        return session.generate(BRIEF).reused

    with noting_daemon.client() as one, noting_daemon.client() as other:
        assert (step(one), step(other)) == (0, 64)
