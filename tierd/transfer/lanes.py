"""Who goes first on one medium: four classes of I/O, and few bytes in flight.

A medium serves what it was given in an order of its own, so what matters is decided before: little
is handed over at once, and what somebody waits for is handed over first. While it is, the other
classes get a small share and no more, so that they neither get in its way nor starve.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tierd.control.events import MoveClass
from tierd.core.units import NS_PER_MS, MiB

IN_FLIGHT_BYTES_MAX: Final = 32 * MiB
"""Enough to keep any device busy; what waits behind it can still be overtaken."""

_LOWER_BYTES_MAX: Final = 8 * MiB
"""The same for all classes below demand while there is some: what it may find in its way.

It is not enough to keep a device busy: write-back alone reached some 0.6 of its rate with it, and
0.9 with all of `IN_FLIGHT_BYTES_MAX`.
"""

_SHARE: Final = 8
"""Of so many bytes a class gets at least one, while classes above it use all the rest.

Source: DualPath reserves its low-priority lane 64 of 256 for caches behind inference traffic; an
eighth leaves demand within its budget.
"""

_QUIET_NS: Final = 50 * NS_PER_MS
"""So long after a demand the next is expected, and the way is kept clear for it."""

_IDLE_NS: Final = 1000 * NS_PER_MS
"""So long after the last demand the classes below it have the medium for themselves."""

_LOWER: Final[tuple[MoveClass, ...]] = ("prefetch", "promotion", "write_back")


@dataclass(slots=True, eq=False)
class Ticket:
    """One piece of I/O: await `granted`, do it, then `Lanes.leave`."""

    urgency: MoveClass
    size: int
    granted: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Lanes:
    """The queues of one medium.

    Concurrency: belongs to one event loop. `clock` returns monotonic nanoseconds. `bytes_max` is
    for each of the `devices` over which the medium is striped.
    """

    def __init__(
        self, clock: Callable[[], int], bytes_max: int = IN_FLIGHT_BYTES_MAX, devices: int = 1
    ) -> None:
        self._clock = clock
        self._bytes_max = devices * bytes_max
        self._lower_bytes_max = devices * min(_LOWER_BYTES_MAX, bytes_max)
        self._urgent: deque[Ticket] = deque()
        self._lower: dict[MoveClass, deque[Ticket]] = {name: deque() for name in _LOWER}
        self._owed: dict[MoveClass, int] = {"demand": 0, **dict.fromkeys(_LOWER, 0)}
        self._in_flight: set[Ticket] = set()
        self._quiet_from_ns = 0

    def enter(self, urgency: MoveClass, size: int) -> Ticket:
        """Queue a piece of I/O of `size` bytes."""
        ticket = Ticket(urgency, size)
        self._queue_of(ticket).append(ticket)
        self._grant()
        return ticket

    def urge(self, ticket: Ticket) -> None:
        """Make a piece demand, because somebody waits for it now."""
        if ticket.urgency == "demand":
            return
        if not ticket.granted.done():
            self._queue_of(ticket).remove(ticket)
            self._urgent.append(ticket)
        ticket.urgency = "demand"
        self._grant()

    def leave(self, ticket: Ticket) -> None:
        """Note that a piece has ended, will not be waited for, or is not wanted any more."""
        if ticket in self._in_flight:
            self._in_flight.remove(ticket)
            if ticket.urgency == "demand":
                self._quiet_from_ns = self._clock() + _QUIET_NS
        elif ticket in (queue := self._queue_of(ticket)):
            queue.remove(ticket)
        self._grant()

    def expect_demand(self) -> None:
        """Keep the way clear as after a demand: a client is about to read by itself."""
        self._quiet_from_ns = self._clock() + _QUIET_NS

    def _queue_of(self, ticket: Ticket) -> deque[Ticket]:
        return self._urgent if ticket.urgency == "demand" else self._lower[ticket.urgency]

    def _grant(self) -> None:
        while (ticket := self._next()) is not None:
            in_flight = sum(other.size for other in self._in_flight)
            if in_flight and in_flight + ticket.size > self._bytes_max:
                return
            self._queue_of(ticket).popleft()
            self._note_share(ticket)
            self._in_flight.add(ticket)
            if not ticket.granted.cancelled():  # else it leaves as soon as its task runs
                ticket.granted.set_result(None)

    def _next(self) -> Ticket | None:
        """Return what goes next, whether or not there is room for it now."""
        lower = self._next_lower(_LOWER)
        busy = sum(other.size for other in self._in_flight if other.urgency != "demand")
        if self._urgent or any(other.urgency == "demand" for other in self._in_flight):
            if lower is not None and not busy and self._is_owed("demand", lower):
                return lower
            return self._urgent[0] if self._urgent else None
        if lower is None or not busy:
            return lower
        quiet_ns = self._clock() - self._quiet_from_ns
        most = self._bytes_max if quiet_ns >= _IDLE_NS else self._lower_bytes_max
        return lower if quiet_ns >= 0 and busy + lower.size <= most else None

    def _next_lower(self, classes: tuple[MoveClass, ...]) -> Ticket | None:
        waiting = [name for name in classes if self._lower[name]]
        if not waiting:
            return None
        top, *rest = waiting
        below = self._next_lower(tuple(rest))
        if below is not None and self._is_owed(top, below):
            return below
        return self._lower[top][0]

    def _is_owed(self, above: MoveClass, ticket: Ticket) -> bool:
        return self._owed[above] >= (_SHARE - 1) * ticket.size

    def _note_share(self, ticket: Ticket) -> None:
        """Remember what classes below have let pass, and settle what they had been owed."""
        classes: tuple[MoveClass, ...] = ("demand", *_LOWER)
        place = classes.index(ticket.urgency)
        for above in classes[:place]:
            self._owed[above] = max(0, self._owed[above] - (_SHARE - 1) * ticket.size)
        below = self._next_lower(classes[place + 1 :])
        if below is None:
            self._owed[ticket.urgency] = 0
            return
        # No more than what one piece takes: who waited long does not come all at once.
        due = min(self._owed[ticket.urgency] + ticket.size, (_SHARE - 1) * below.size)
        self._owed[ticket.urgency] = due
