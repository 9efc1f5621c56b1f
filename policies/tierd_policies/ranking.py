"""Keys in order of a rank that may change: what policies keep leaves in."""

from collections.abc import Iterator

from sortedcontainers import SortedList  # type: ignore[import-untyped]

from tierd.core.keys import BlockKey

Rank = tuple[float, int] | int
"""What is compared. Within one ranking all are of one kind, and no two are equal."""


class Ranking:
    """Keys, lowest rank first.

    Units: O(log n) to place or remove; to read the first few costs no more than their number.
    A heap would do neither the removal nor the reading without a change.
    """

    def __init__(self) -> None:
        self._ranks: dict[BlockKey, Rank] = {}
        self._sorted = SortedList()

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[BlockKey]:
        return (key for _, key in self._sorted)

    def place(self, key: BlockKey, rank: Rank) -> None:
        """Give `key` this rank, whatever it had before."""
        self.discard(key)
        self._ranks[key] = rank
        self._sorted.add((rank, key))

    def discard(self, key: BlockKey) -> None:
        """Take `key` out. Unknown keys are fine."""
        rank = self._ranks.pop(key, None)
        if rank is not None:
            self._sorted.remove((rank, key))
