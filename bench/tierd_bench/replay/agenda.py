"""Who replays what when: the order of a trace's requests, as pure decisions.

Requests of one session follow one another, those of different sessions overlap. Waiting and
threads are left to the driver, which brings the time.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from typing import Final

from tierd.core.units import NS_PER_S
from tierd_bench.traces import TraceRequest


class Loop(Enum):
    """What a user does when a request has ended."""

    OPEN = "open"
    """Takes the request that is due next, of any session."""

    CLOSED = "closed"
    """Stays with the session until it ends, and then starts the next one."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a trace is replayed.

    `speed` 1 keeps the recorded times, 2 halves them, and infinity leaves them out: the earliest
    request in the trace goes next whose session is not busy.
    """

    speed: float = math.inf
    loop: Loop = Loop.OPEN

    @property
    def is_timed(self) -> bool:
        """Whether requests are due at certain times."""
        return math.isfinite(self.speed)


@dataclass(frozen=True, slots=True)
class Ready:
    """The request to replay now, and since when it has been due."""

    index: int
    due_ns: int


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing is due yet. Ask again at `at_ns`, or when a request ends; None: only then."""

    at_ns: int | None


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left for this user."""


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    due_ns: int
    index: int


class Agenda:
    """Hands out the requests of a trace, at most one of each session at a time.

    Times count from the start of the replay. A session whose start was not recorded is due from
    the beginning. Concurrency: the caller lets one thread in at a time.
    """

    def __init__(self, requests: Sequence[TraceRequest], pace: Pace) -> None:
        self._requests: Final = requests
        self._pace: Final = pace
        arrivals = (r.arrival_s for r in requests if r.arrival_s is not None)
        self._first_arrival_s: Final = min(arrivals, default=0.0)
        self._unfinished = len(requests)
        self._due: Final[list[_Entry]] = []
        self._kept: Final[dict[int, _Entry]] = {}
        self._following: Final[dict[str, deque[int]]] = {}
        for index, request in enumerate(requests):
            if request.session in self._following:
                self._following[request.session].append(index)
            else:
                self._following[request.session] = deque()
                heappush(self._due, _Entry(self._start_ns(request), index))

    def take(self, user: int, now_ns: int) -> Ready | Later | Finished:
        """Return what `user` does now. A request that is Ready has to be ended."""
        kept = self._kept.get(user)
        if kept is None and not self._due:
            # In a closed loop the sessions under way belong to their users.
            over = self._pace.loop is Loop.CLOSED or not self._unfinished
            return Finished() if over else Later(None)
        entry = kept or self._due[0]
        if entry.due_ns > now_ns:
            return Later(entry.due_ns)
        if kept is None:
            heappop(self._due)
        else:
            del self._kept[user]
        return Ready(entry.index, entry.due_ns)

    def end(self, user: int, index: int, now_ns: int) -> None:
        """Say that `user` has replayed the request: its session's next one may come."""
        self._unfinished -= 1
        following = self._following[self._requests[index].session]
        if not following:
            return
        after = following.popleft()
        entry = _Entry(self._next_ns(self._requests[after], now_ns), after)
        if self._pace.loop is Loop.CLOSED:
            self._kept[user] = entry
        else:
            heappush(self._due, entry)

    def _start_ns(self, request: TraceRequest) -> int:
        if request.arrival_s is None or self._pace.loop is Loop.CLOSED:
            return 0
        return self._scaled_ns(request.arrival_s - self._first_arrival_s)

    def _next_ns(self, request: TraceRequest, previous_end_ns: int) -> int:
        if not self._pace.is_timed:
            return 0
        if request.arrival_s is None or self._pace.loop is Loop.CLOSED:
            return previous_end_ns + self._scaled_ns(request.gap_s)
        return self._start_ns(request)

    def _scaled_ns(self, recorded_s: float) -> int:
        return int(recorded_s / self._pace.speed * NS_PER_S)
