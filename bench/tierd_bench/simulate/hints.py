"""What engines may tell a cache besides the blocks: what the agent does after its request.

A trace shows it afterwards. The last request of a session ends it. A next request that comes
soon was waiting for a tool, one that comes late for a person; where gaps were not recorded,
nothing says which. A trace whose requests are all sessions of their own knows no sessions.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd.core.notes import AgentState
from tierd_bench.traces import TraceRequest

STATES: Final[tuple[AgentState, ...]] = ("running", "tool_call", "turn_ended", "session_ended")
"""The first says nothing, and policies are not told of it."""

_RUNNING: Final = STATES.index("running")
_TOOL_CALL: Final = STATES.index("tool_call")
_TURN_ENDED: Final = STATES.index("turn_ended")
_SESSION_ENDED: Final = STATES.index("session_ended")

_TOOL_S: Final = 10.0
"""In recordings nine tools in ten answer in less, and most people take more."""


def states_after(requests: Sequence[TraceRequest]) -> NDArray[np.int8]:
    """Return the state of the agent after each request, as places in `STATES`."""
    states = no_states(len(requests))
    following: dict[str, TraceRequest] = {}
    for at in range(len(requests) - 1, -1, -1):
        after = following.get(requests[at].session)
        if after is None:
            states[at] = _SESSION_ENDED
        elif after.gap_s:
            states[at] = _TOOL_CALL if after.gap_s < _TOOL_S else _TURN_ENDED
        following[requests[at].session] = requests[at]
    return no_states(len(requests)) if len(following) == len(requests) else states


def no_states(requests: int) -> NDArray[np.int8]:
    """Return what says nothing of any request."""
    return np.full(requests, _RUNNING, np.int8)
