"""What tests ask of engines, and how they judge the answers.

An engine that goes on from blocks of tierd must make of a prompt what an engine makes that has as
many of its tokens in its own prefix cache: the same tokens and, bit for bit, the same logprobs.
Where both do not compute in the same steps, logprobs may differ by rounding, and by no more.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from tests.integration.daemons import Daemon, eventually
from tests.vllm.engines import BLOCK_TOKENS, Engine, Made, Request
from tests.vllm.models import VOCABULARY

ROUNDING: Final = 1e-4
"""How far the same logprob may be off in another step's shape. A wrong block is off by 0.1."""


def tierd(where: str, **more: Any) -> dict[str, Any]:
    """Return the settings for an engine that keeps its blocks in the daemon at `where`.

    A tiny model computes faster than anything is loaded, so the engine must not choose.
    """
    chosen = {"block_tokens": BLOCK_TOKENS, "decline_slow_loads": False, "deadline_s": 3.0}
    return {
        "kv_connector": "TierdConnector",
        "kv_connector_module_path": "tierd_client.engines.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"address": where, **chosen, **more},
    }


def prompt(seed: int, tokens: int) -> list[int]:
    """Return a prompt that shares no block with that of another seed; a longer one goes on."""
    return Random(seed).choices(range(VOCABULARY), k=tokens)


class Local:
    """An engine without connector, which says what a hit in its own prefix cache makes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def computed(self, request: Request) -> Made:
        """Return what comes of a request of which nothing is known."""
        forgetful(self._engine)
        return self._engine.run(request)[request.id]

    def after_hit(self, request: Request, tokens: int) -> Made:
        """Return what comes of a request whose first `tokens` were computed before."""
        self.computed(request)
        self._engine.tell("local_tokens_max", tokens=tokens)
        made = self._engine.run(request)[request.id]
        self._engine.tell("local_tokens_max", tokens=None)
        assert made.cached == tokens, (made.cached, tokens)
        return made

    def after_hits(self, *requests: Request) -> dict[str, Made]:
        """Return what comes of requests at once, each computed before, alone."""
        forgetful(self._engine)
        for request in requests:
            self._engine.run(request)
        return self._engine.run(*requests)


def hit_max(request: Request) -> int:
    """Return how many tokens of a prompt may be found: whole blocks, and one token is computed."""
    return (len(request.prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def held_tokens(daemon: Daemon) -> int:
    """Return of how many tokens `daemon` has the blocks."""
    return sum(each.blocks * each.block_tokens for each in daemon.status().namespaces)


def publish(engine: Engine, daemon: Daemon, *requests: Request) -> dict[str, Made]:
    """Have `engine` compute prompts that are new, one by one, and wait until `daemon` has them."""
    made: dict[str, Made] = {}
    for request in requests:
        wanted = held_tokens(daemon) + hit_max(request)
        made |= engine.run(request)
        eventually(partial(_published, engine, daemon, request, wanted))
    return made


def _published(engine: Engine, daemon: Daemon, request: Request, wanted: int) -> bool:
    """Look whether `daemon` has so much. What was given up on a busy machine the next run saves."""
    if held_tokens(daemon) >= wanted:
        return True
    engine.run(request)
    return False


def holds(daemon: Daemon, tokens: int) -> bool:
    """Say whether `daemon` has the blocks of so many tokens."""
    return held_tokens(daemon) >= tokens


def forgetful(engine: Engine) -> Engine:
    """Empty the engine's own prefix cache."""
    eventually(lambda: engine.tell("forget"))
    return engine


def matched(engine: Engine) -> dict[str, tuple[int, int]]:
    """Return, by request, how much the engine had itself, and how much more tierd had."""
    told = engine.tell("told")["matches"]
    return {id: (local, found) for id, local, found in told if found is not None}


def hits(engine: Engine, *requests: Request, ends: Sequence[int] = ()) -> dict[str, Made]:
    """Have `engine` bring what it can find of `requests`, all at once, and return the answers.

    `ends` says how far each can be found: all that may be, if it is left out. On a busy machine the
    daemon may answer too late; then an engine computes, rightly, and is asked again.
    """
    made: dict[str, Made] = {}
    wanted = list(ends) or [hit_max(request) for request in requests]

    def found() -> bool:
        made.update(forgetful(engine).run(*requests))
        seen = matched(engine)
        return [sum(seen[request.id]) for request in requests] == wanted

    eventually(found)
    for request, end in zip(requests, wanted, strict=True):
        assert made[request.id].cached == end
    return made


def reached(engine: Engine) -> None:
    """Wait until `engine` finds again what it has published."""
    probe = Request("probe", prompt(1, 70), max_tokens=1)
    eventually(lambda: forgetful(engine).run(probe)["probe"].cached)
    matched(engine)


def identical(one: Made, other: Made) -> None:
    """Fail unless both are the same, bit for bit."""
    assert one.finish == other.finish == "length"
    assert one.tokens == other.tokens
    assert one.logprobs == other.logprobs


def alike(one: Made, other: Made) -> None:
    """Fail unless both have the same tokens, and the same logprobs but for rounding."""
    assert one.finish == other.finish == "length"
    assert one.tokens == other.tokens
    for ours, theirs in zip(one.logprobs, other.logprobs, strict=True):
        _near(ours, theirs)


def _near(ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    both = ours.keys() & theirs.keys()
    assert both
    for token in both:
        assert abs(ours[token] - theirs[token]) < ROUNDING, (ours, theirs)
