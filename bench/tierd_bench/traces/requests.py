"""The one shape that every trace reader yields, and what can be said of it without replaying.

Nothing here knows a file format. Times are seconds, as traces record them; the replayer turns
them into its own clock.
"""

from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

SUB_SESSION: Final = "::"
"""Between a session's name and its sub-agent's: they run side by side and are sampled together."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One call of an engine: its prompt as blocks, and how many tokens it answered with.

    Requests of one session run one after another, in trace order. `arrival_s` counts from the
    start of the recording, and is None where the trace does not tell. `blocks` has one id a
    block of the prompt, root first, and equal id means equal prefix up to and including that
    block, across the whole trace; readers give an `array('Q')`, 8 bytes an id. `gap_s` is think
    or tool time since the session's previous request ended, 0 where it was not recorded.
    `prompt_tokens` is the whole prompt, None where that is not recorded: its blocks, all full.
    """

    session: str
    arrival_s: float | None
    blocks: Sequence[int]
    output_tokens: int
    gap_s: float = 0.0
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in trace order, all cut into blocks of one size."""

    name: str
    block_tokens: int
    requests: tuple[TraceRequest, ...]

    @property
    def references(self) -> int:
        """How many blocks the requests ask for, repeats counted."""
        return sum(len(request.blocks) for request in self.requests)

    @property
    def unique_blocks(self) -> int:
        """How many different blocks there are: what an infinite cache would hold."""
        return len(_replay_infinite(self.requests)[1])

    @property
    def infinite_hit_rate(self) -> float:
        """Share of references that a cache which never evicts would hit; 0 of no references.

        A block hits only if every earlier block of its request hits.
        """
        hits, _ = _replay_infinite(self.requests)
        return hits / max(1, self.references)


def root_session(session: str) -> str:
    """Return the session that `session` is a sub-agent of, or itself."""
    return session.partition(SUB_SESSION)[0]


def prefix_length(seen: Container[int], blocks: Sequence[int]) -> int:
    """Return how many leading `blocks` are in `seen`, which holds whole prefixes only.

    Equal id means equal prefix, so once one block is missing all later ones are too, and a
    binary search finds the place: long agent prompts cost a dozen look-ups, not thousands.
    """
    return bisect_left(range(len(blocks)), 1, key=lambda at: blocks[at] not in seen)


def _replay_infinite(requests: Sequence[TraceRequest]) -> tuple[int, set[int]]:
    seen: set[int] = set()
    hits = 0
    for request in requests:
        prefix = prefix_length(seen, request.blocks)
        hits += prefix
        seen.update(request.blocks[prefix:])
    return hits, seen
