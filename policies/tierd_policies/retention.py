"""Eviction by how long blocks are meant to be kept: for a request, a session, or for good."""

from collections.abc import Sequence
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.levels import LeveledLru

_REQUEST: Final = 0
_SESSION: Final = 1
_PERSISTENT: Final = 2

_LEVELS: Final[dict[BlockClass, int]] = {
    "system": _PERSISTENT,
    "tools": _PERSISTENT,
    "user": _SESSION,
    "tool_result": _SESSION,
    "answer": _SESSION,
    "thinking": _REQUEST,
    "unknown": _SESSION,
}


class Retention(LeveledLru):
    """Propose what was for one request first, then sessions, then what all of them share.

    System prompts and tools are persistent, within a quota; thinking, which no later turn
    sends again, is for its request; all else is its session's. A session that ended leaves
    nothing but what is persistent. Without notes it is plain chain LRU.

    Source: the retention of SGLang's cache hints (its RFC 27574); SAECache (arXiv 2605.18825)
    for how far the kinds of tokens differ.
    """

    def __init__(self, persistent_ratio: float = 0.25) -> None:
        super().__init__(quotas=(1.0, 1.0, persistent_ratio), level_of_new=_SESSION)

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        """Note what the blocks of `chain`, just touched, are."""
        for key, kind in zip(chain, classes, strict=False):
            if key in self._levels:
                self._move(key, _LEVELS[kind])
        if state == "session_ended":
            self.cool([key for key in chain if self._levels.get(key) != _PERSISTENT])
