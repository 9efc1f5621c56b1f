"""Which blocks are worth a copy in the next hotter tier."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromoteOnHit:
    """Promote a block when it is fetched for the `hits_min`-th time, and at every later fetch
    that finds it colder again."""

    hits_min: int = 1

    def promote(self, hits: int) -> bool:
        """Say whether `hits` fetches are enough."""
        return hits >= self.hits_min
