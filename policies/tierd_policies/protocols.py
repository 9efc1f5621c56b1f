"""What every eviction policy has. Control says the same of what it asks for."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from tierd.core.keys import BlockKey


class Eviction(Protocol):
    """Orders tracked keys; the README says what a policy may have besides."""

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        ...

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Propose the tracked keys of `chain`, root first, next, save what other chains need."""
        ...

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        ...

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys, next to evict first, children before parents. Changes nothing."""
        ...
