"""What control asks of a policy. Any object with these methods will do; none is imported here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass


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


class Listener:
    """What an eviction policy may hear besides, each where it has a method of that name.

    `extend(chain)`: the blocks that end `chain` came, which is no further use of the others;
    without it that is a touch. `evicted(key)`: a victim was taken, and `forget` follows.
    `missed(keys)`: these were asked for and not there, and room is made for them next.
    `note(chain, classes, state)`: what the blocks of a chain are, and what its agent does now.
    """

    def __init__(self, policy: Eviction) -> None:
        self.extend: Callable[[Sequence[BlockKey]], None]
        self.extend = getattr(policy, "extend", policy.touch)
        self.evicted: Callable[[BlockKey], None] = getattr(policy, "evicted", _ignore)
        self.missed: Callable[[Sequence[BlockKey]], None] = getattr(policy, "missed", _ignore)
        self.note: Callable[[Sequence[BlockKey], Sequence[BlockClass], AgentState], None]
        self.note = getattr(policy, "note", _ignore)


def _ignore(*_: object) -> None:
    pass


class Admission(Protocol):
    """Decides which blocks are worth writing to a colder tier.

    One with `afford(saved_ratio)` hears before it is asked how much of the budget of writes is
    saved up, 1 being all that can be; below 0 it is owed.
    """

    def admit(self, key: BlockKey) -> bool:
        """Say whether `key`, just published or fetched and not yet written, should be."""
        ...


class Promotion(Protocol):
    """Decides which blocks are worth a copy in the next hotter tier."""

    def promote(self, hits: int) -> bool:
        """Say whether a block that was just fetched for the `hits`-th time should be."""
        ...


class Prefetch(Protocol):
    """Decides which chains to bring to the entry tier before they are asked for."""

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


class Hints:
    """The prefetch policy of a store that is told of none: what is hinted is due."""

    def __init__(self) -> None:
        self._hinted: list[Sequence[BlockKey]] = []

    def hinted(self, chain: Sequence[BlockKey]) -> None:
        """Note that `chain` is due."""
        self._hinted.append(chain)

    def paused(self, chain: Sequence[BlockKey], state: AgentState, now_ns: int) -> None:
        """Nothing follows from a pause."""

    def fetched(self, chain: Sequence[BlockKey], now_ns: int) -> None:
        """Nothing was expected."""

    def due(self, now_ns: int) -> list[Sequence[BlockKey]]:
        """Return what was hinted since the last call."""
        due, self._hinted = self._hinted, []
        return due

    def next_ns(self) -> int | None:
        """Return None: hints are due at once."""
        return None


@dataclass(frozen=True, slots=True)
class Policies:
    """How to make the policies: one eviction a namespace and tier, one admission a tier, and one
    prefetch a namespace."""

    eviction: Callable[[], Eviction]
    admission: Callable[[], Admission]
    promotion: Promotion
    prefetch: Callable[[], Prefetch] = Hints
