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


class NeverPromote:
    """Leave every block in the tier where it is."""

    def promote(self, hits: int) -> bool:
        """Say no."""
        return False


@dataclass(frozen=True, slots=True)
class PromoteByCost:
    """Promote a block when what it will save is worth the move.

    A block that was fetched n times is taken to be fetched n times more; each saves `saved_s`,
    and the move costs `move_s` of the route's time.

    Units: only the ratio of the two matters. By default a move costs what two fetches save.

    Source: the renewal argument of ski rental (Karlin et al., 1988): at most twice the cost of
    knowing the future.
    """

    move_s: float = 2.0
    saved_s: float = 1.0

    def promote(self, hits: int) -> bool:
        """Say whether `hits` more fetches save more than the move costs."""
        return hits * self.saved_s >= self.move_s
