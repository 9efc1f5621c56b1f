"""What leaving a policy for another has cost so far, and what it may yet cost at most."""

from collections.abc import Collection, Iterator, Sequence

from tierd.core.keys import BlockKey
from tierd_policies.protocols import Eviction
from tierd_policies.shadow import Shadow, Verb


class Guard:
    """Runs the floor, a policy that one must not end below, beside the real cache, key for key.

    What the floor holds and the real cache does not is owed. An owed block is settled when it
    is asked for, a miss that the floor does not have, or when the floor evicts it as well, which
    costs nothing. If the floor goes by recency, evictions in its order owe nothing new: what it
    does not hold is older than all that it does. So whatever comes, the loss ends no higher than
    the one so far and what is owed; their sum grows only when a block is evicted that the floor
    keeps, and by one.

    Units: a floor of its own, and O(1) a key.
    """

    def __init__(self, floor: Eviction) -> None:
        self._floor = Shadow(floor)
        self._owed: set[BlockKey] = set()
        self._taken: list[BlockKey] = []
        """Evicted since the floor was asked last: it may evict them, too."""
        self.asked = 0
        self.lost = 0

    @property
    def lost_most(self) -> int:
        """Misses more than the floor's in the end, at most, if its order is kept from now on."""
        return self.lost + len(self._owed) + len(self._taken)

    def ask(
        self, verb: Verb, chain: Sequence[BlockKey], new: Collection[BlockKey], blocks_max: int
    ) -> None:
        """Note that the real cache was told `verb` of `chain`, of which it lacked `new`."""
        self.asked += len(chain) if verb == "touch" else len(new)
        gone = self._floor.ask(verb, chain, new, blocks_max)
        self.lost += len(new) - self._floor.fresh
        self._floor.fresh = 0
        self._owed.update(self._taken)
        self._taken.clear()
        if self._owed:
            self._owed.difference_update(gone, new)

    def afford(self, wanted: Iterator[BlockKey], lost_max: float) -> Iterator[BlockKey]:
        """Yield from `wanted` until an eviction more might lose more than `lost_max`."""
        left = lost_max - self.lost_most
        for key in wanted:
            if key in self._floor.held:
                left -= 1
                if left < 0:
                    return
            yield key

    def evicted(self, key: BlockKey) -> None:
        """Note that the real cache gave up `key`."""
        if key in self._floor.held:
            self._taken.append(key)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Note that `chain` is not expected back."""
        self._floor.policy.cool([key for key in chain if key in self._floor.held])

    def forget(self, key: BlockKey) -> None:
        """Note that the real cache lost `key`, by no decision of a policy."""
        self._floor.forget(key)
