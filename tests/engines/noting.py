"""Policies that write down in the daemon's log what they hear of agents, as lines of JSON."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from tests.integration.daemons import Daemon
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.prefetch import OnHint

SETTINGS = {
    "policies__eviction": "tests.engines.noting:NotingLru",
    "policies__prefetch": "tests.engines.noting:NotingHints",
}


class NotingLru(ChainLRU):
    """Chain LRU that notes what kinds of blocks there are, and which are let go."""

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        _tell("note", chain, classes=list(classes), state=state)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        super().cool(chain)
        _tell("cool", chain)


class NotingHints(OnHint):
    """Prefetching as hinted, noting pauses and hints."""

    def hinted(self, chain: Sequence[BlockKey]) -> None:
        super().hinted(chain)
        _tell("hinted", chain)

    def paused(self, chain: Sequence[BlockKey], state: AgentState, now_ns: int) -> None:
        _tell("paused", chain, state=state)


def heard(daemon: Daemon, what: str) -> list[dict[str, Any]]:
    """Return what the policies of a daemon heard of one kind so far."""
    lines = daemon.log.read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith('{"heard"')]
    return [each for each in told if each["heard"] == what]


def _tell(what: str, chain: Sequence[BlockKey], **more: object) -> None:
    keys = [key.hex() for key in chain]
    sys.stderr.write(json.dumps({"heard": what, "keys": keys, **more}) + "\n")
    sys.stderr.flush()
