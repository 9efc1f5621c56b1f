"""What control asks of a policy. Any object with these methods will do; none is imported here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tierd.core.keys import BlockKey


class Eviction(Protocol):
    """Orders the blocks of one namespace in one tier. It proposes; control disposes.

    Concurrency: called from one thread, never while an iterator from `victims` is in use.
    """

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Note that blocks of one chain, root first, were used now. New keys are tracked."""
        ...

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Note that tracked blocks of one chain, root first, are not expected back."""
        ...

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        ...

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys, next to evict first, children before parents. Changes nothing."""
        ...


class Admission(Protocol):
    """Decides which blocks are worth writing to a colder tier."""

    def admit(self, key: BlockKey) -> bool:
        """Say whether `key`, just published or fetched and not yet written, should be."""
        ...


class Promotion(Protocol):
    """Decides which blocks are worth a copy in the next hotter tier."""

    def promote(self, hits: int) -> bool:
        """Say whether a block that was just fetched for the `hits`-th time should be."""
        ...


@dataclass(frozen=True, slots=True)
class Policies:
    """How to make the policies: one eviction a namespace and tier, one admission a tier."""

    eviction: Callable[[], Eviction]
    admission: Callable[[], Admission]
    promotion: Promotion
