"""What may be known of the blocks of a chain, besides that they are used."""

from typing import Final, Literal, get_args

from tierd.core.errors import InvalidRequest

BlockClass = Literal["system", "tools", "user", "tool_result", "answer", "thinking", "unknown"]
"""What the tokens of a block are; of a block with several kinds, the kind of the last."""

AgentState = Literal["running", "tool_call", "turn_ended", "session_ended"]
"""What the agent does whose chain it is: its engine computes, a tool does, a person reads, or
nothing is expected any more. Who waits for a tool that is known to take long waits as for a
person, until it is nearly over."""

BLOCK_CLASSES: Final[tuple[BlockClass, ...]] = get_args(BlockClass)

EXPECTED_S_MAX: Final = 24 * 3600
"""The longest pause of which anybody may say how long it is."""


def check_expected(expected_s: float | None) -> None:
    """Look at how long somebody says that a pause will be; None: nobody knows.

    Raises:
        InvalidRequest: it is negative, more than a day, or no number.
    """
    # What is no number is neither more nor less than another.
    if expected_s is not None and not 0 <= expected_s <= EXPECTED_S_MAX:
        remedy = f"give 0 to {EXPECTED_S_MAX} seconds, or None if nobody knows"
        raise InvalidRequest("expected_s", str(expected_s), remedy)
