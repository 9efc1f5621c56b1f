"""What came of each replayed request: the record that every figure of a report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tierd_bench.replay.content import CorruptPage

AWAY: Final = "daemon away"
"""What the client says of a fetch that reached no daemon."""


@dataclass(frozen=True, slots=True)
class RouteShare:
    """What went over one route. `busy_ns` of one user; those of several users overlap."""

    blocks: int
    bytes: int
    busy_ns: int

    def __add__(self, other: "RouteShare") -> "RouteShare":
        return RouteShare(
            self.blocks + other.blocks, self.bytes + other.bytes, self.busy_ns + other.busy_ns
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, replayed. Counts are of blocks, times count from the start of the replay.

    `hits` sums to at most `asked`; what is not a hit was missed. `published` and `unpublished`
    are of the blocks that this request was to write: those that others wrote meanwhile are in
    neither. `cut` says why a prefix that is held was not served whole.
    """

    index: int
    start_ns: int
    end_ns: int
    late_ns: int
    asked: int
    hits: Mapping[str, int]
    routes: Mapping[str, RouteShare]
    fetch_ns: int
    publish_ns: int
    published: int
    unpublished: int
    corrupt_blocks: int
    corrupt_pages: tuple[CorruptPage, ...]
    cut: str
    faults: tuple[str, ...]

    @property
    def hit(self) -> int:
        """Blocks served, by all tiers together."""
        return sum(self.hits.values())

    @property
    def fetched_bytes(self) -> int:
        """Bytes served, over all routes together."""
        return sum(share.bytes for share in self.routes.values())
