"""What every policy has. Control says the same of what it asks for."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState


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


class Admission(Protocol):
    """Says what is worth a write. With `afford(saved_ratio)` it hears of the budget of writes."""

    def admit(self, key: BlockKey) -> bool:
        """Say whether `key`, just used and not yet written, should be."""
        ...


class Promotion(Protocol):
    """Says what is worth a copy in the next hotter tier."""

    def promote(self, hits: int) -> bool:
        """Say whether a block that was just fetched for the `hits`-th time should be."""
        ...


class Prefetch(Protocol):
    """Says what to bring to the entry tier before it is asked for."""

    def hinted(self, chain: Sequence[BlockKey]) -> None:
        """Note that `chain` will be fetched soon: a client says so, or said when."""
        ...

    def paused(self, chain: Sequence[BlockKey], state: AgentState, now_ns: int) -> None:
        """Note that a turn ended after `chain`, and why, and nobody knows until when."""
        ...

    def fetched(self, chain: Sequence[BlockKey], now_ns: int) -> None:
        """Note that `chain` is being fetched: nothing needs to be expected of it any more."""
        ...

    def due(self, now_ns: int) -> list[Sequence[BlockKey]]:
        """Return the chains to prefetch now, most urgent first, each once."""
        ...

    def next_ns(self) -> int | None:
        """Return when `due` is next worth asking, if only time goes by; None is never."""
        ...
