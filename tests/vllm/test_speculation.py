"""Engines that guess tokens and check them several at once: a hit is a local hit here, too."""

from typing import Final

import pytest

from tests.integration.daemons import Daemon
from tests.vllm.asking import Local, alike, hit_max, hits, identical, prompt, publish, tierd
from tests.vllm.conftest import StartEngine
from tests.vllm.engines import BLOCK_TOKENS, Engine, Request

NGRAM: Final = {
    "method": "ngram",
    "num_speculative_tokens": 3,
    "prompt_lookup_min": 1,
    "prompt_lookup_max": 3,
}


@pytest.fixture(scope="module")
def engines(shared_daemon: Daemon, start_shared_engine: StartEngine) -> list[Engine]:
    """Engines that guess what came before: two with tierd, and one without."""
    connectors = [tierd(shared_daemon.address)] * 2 + [None]
    return [start_shared_engine(connector=each, speculative_config=NGRAM) for each in connectors]


@pytest.mark.parametrize("length", [65, 300])
def test_a_hit_with_guessed_tokens(
    shared_daemon: Daemon, engines: list[Engine], length: int
) -> None:
    first, second, alone = engines
    request = Request("guessed", prompt(length, length), max_tokens=60)
    publish(first, shared_daemon, request)
    before = second.tell("drafted")
    made = hits(second, request)["guessed"]
    assert second.tell("drafted") > before
    identical(made, Local(alone).after_hit(request, hit_max(request)))


@pytest.mark.parametrize("generated", [120, 106], ids=["in a block", "to the end of one"])
def test_what_was_guessed_wrong_is_not_published(
    shared_daemon: Daemon, engines: list[Engine], generated: int
) -> None:
    """The next turn finds what was generated, and has the answer of who computed all of it."""
    first, second, alone = engines
    request = Request("turn", prompt(generated, 150), max_tokens=generated)
    made = publish(first, shared_daemon, request)["turn"]
    history = [*request.prompt, *made.tokens]
    longer = Request("next", [*history, *prompt(2, 50)])
    # The last token that was generated has no KV yet.
    end = (len(history) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    found = hits(second, longer, ends=[end])["next"]
    alike(found, Local(alone).computed(longer))
