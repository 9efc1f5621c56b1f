"""What may be known of the blocks of a chain, besides that they are used."""

from typing import Final, Literal, get_args

BlockClass = Literal["system", "tools", "user", "tool_result", "answer", "thinking", "unknown"]
"""What the tokens of a block are; of a block with several kinds, the kind of the last."""

AgentState = Literal["running", "tool_call", "turn_ended", "session_ended"]
"""What the agent does whose chain it is: its engine computes, a tool does, a person reads, or
nothing is expected any more."""

BLOCK_CLASSES: Final[tuple[BlockClass, ...]] = get_args(BlockClass)
