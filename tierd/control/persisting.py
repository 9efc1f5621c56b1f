"""Requests that wait until a chain is durable: until every block has a copy below the entry tier.

A copy there is reported only when its bytes and its record are synced, so a chain that is
answered for survives the loss of power as well as that of the process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from tierd.control.events import Persist
from tierd.core.keys import BlockKey

IsDurable = Callable[[BlockKey], bool]
IsComing = Callable[[BlockKey], bool]


@dataclass(slots=True, eq=False)
class _Waiting:
    """`keys[:durable]` were seen to be durable; the rest is looked at again."""

    event: Persist
    keys: Sequence[BlockKey]
    durable: int = 0


class Persisting:
    """Who waits, and for which prefix.

    `is_durable` and `is_coming` say of a block that it is, or that it is queued or under way.
    """

    def __init__(self, is_durable: IsDurable, is_coming: IsComing) -> None:
        self._is_durable = is_durable
        self._is_coming = is_coming
        self._waiting: list[_Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, event: Persist, keys: Sequence[BlockKey]) -> None:
        """Have `event` answered when all of `keys`, a held prefix, are durable or will not be."""
        self._waiting.append(_Waiting(event, keys))

    def pop_over(self, now_ns: int) -> list[tuple[Persist, int]]:
        """Return who needs no longer wait, with the number of blocks that are durable."""
        over = []
        staying = []
        for waiting in self._waiting:
            keys = waiting.keys
            while waiting.durable < len(keys) and self._is_durable(keys[waiting.durable]):
                waiting.durable += 1
            done = waiting.durable == len(keys) or not self._is_coming(keys[waiting.durable])
            if done or waiting.event.wait_until_ns <= now_ns:
                # Counted anew: what was durable when it was looked at may be evicted by now.
                over.append((waiting.event, sum(1 for _ in takewhile(self._is_durable, keys))))
            else:
                staying.append(waiting)
        self._waiting = staying
        return over

    def forget(self, session: int) -> None:
        """Drop the requests of a session that is no more."""
        self._waiting = [w for w in self._waiting if w.event.session != session]

    def next_deadline_ns(self) -> int | None:
        """Return when the first of them has waited long enough."""
        return min((waiting.event.wait_until_ns for waiting in self._waiting), default=None)
