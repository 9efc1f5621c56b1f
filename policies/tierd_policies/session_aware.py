"""Eviction by what the agents do: ended sessions go first, pauses for a tool are kept."""

from collections.abc import Sequence
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.levels import LeveledLru

_ENDED: Final = 0
_IDLE: Final = 1
_WAITING: Final = 2

_WAITING_RATIO: Final = 0.5


class SessionAware(LeveledLru):
    """Propose the blocks of ended sessions first and those that wait for a tool last.

    A tool answers within seconds where a person takes minutes, so a chain that paused for one
    is kept while those that wait are no more than half of all; beyond that the one that has
    waited longest goes first. What is known to take a minute or more is noted as a person's pause
    until it is nearly over. Without notes it is plain chain LRU.

    Source: the pins of Continuum (arXiv 2511.02230), with a share in place of its deadline:
    replications found that per-tool deadlines gain nothing.
    """

    def __init__(self, waiting_ratio: float = _WAITING_RATIO) -> None:
        super().__init__(quotas=(1.0, 1.0, waiting_ratio), level_of_new=_IDLE)

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        """Note what the agent of `chain`, just touched, does now."""
        if state == "session_ended":
            self.cool(chain)
            return
        level = _WAITING if state == "tool_call" else _IDLE
        for key in chain:
            if key in self._levels:
                self._move(key, level)
