"""Where the blocks of a fetched prefix are: a reply's runs, by block index."""

from dataclasses import dataclass

from tierd_proto.v1 import tierd_pb2 as pb


@dataclass(frozen=True, slots=True)
class PlacedRun:
    """Blocks `first` to `first + count - 1` of the prefix, in neighbouring slots of a tier."""

    first: int
    count: int
    tier: int
    slot: int
    pending: bool

    def part(self, first: int, count: int) -> "PlacedRun":
        """Return the blocks `first` to `first + count - 1` of this run."""
        return PlacedRun(first, count, self.tier, self.slot + first - self.first, self.pending)


def placed_runs(reply: pb.FetchReply, first: int) -> list[PlacedRun]:
    """Return the runs of a reply, in chain order, the first of which begins with block `first`."""
    placed = []
    pending = set(reply.run_pending)
    rows = zip(reply.run_tier, reply.run_slot, reply.run_count, strict=True)
    for index, (tier, slot, count) in enumerate(rows):
        placed.append(PlacedRun(first, count, tier, slot, index in pending))
        first += count
    return placed


def prefix_length(present: set[int], ready: int) -> int:
    """Return how many blocks from the first on are present, `ready` of them for sure."""
    while ready in present:
        ready += 1
    return ready
