"""What transfers and batches share: fluid resources, divided evenly among those who use them.

A transfer over several resources (a storage NIC and the DRAM behind it) puts its bytes on each of
them and is over when the slowest is done (`Join`). Each resource divides its capacity evenly among
its present users. So no resource ever moves more than its capacity, none idles while it has bytes
to move, and saturation rates are those of a max-min fair network; only who of several waits first
may differ from it.
"""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from math import inf
from typing import Any, Final

from tierd_bench.cluster.loop import Loop

_TICK_S: Final = 1e-6
"""What is done within this time counts as done now: far below anything that is measured."""


class Join:
    """Calls `done(argument)` once when all of its parts have ended."""

    __slots__ = ("_argument", "_done", "_left")

    def __init__(self, parts: int, done: Callable[[Any], None], argument: Any) -> None:
        self._left = parts
        self._done = done
        self._argument = argument

    def part_ended(self, _: object = None) -> None:
        """Count one part as ended."""
        self._left -= 1
        if not self._left:
            self._done(self._argument)


class Shared:
    """Serves all its jobs at once, each at the same pace (processor sharing).

    `pace(jobs)` is what one of so many jobs gets done in a second. Progress is kept as one number
    for all: a job of `work` that starts when each job has received v ends when each has received
    v + work, so that no job is looked at until it ends.
    """

    __slots__ = ("_count", "_due", "_jobs", "_loop", "_pace", "_rate", "_received", "_since")

    def __init__(self, loop: Loop, pace: Callable[[int], float]) -> None:
        self._loop = loop
        self._pace = pace
        self._jobs: list[tuple[float, int, Join]] = []
        self._count = 0
        self._received = 0.0
        self._rate = 0.0
        self._since = 0.0
        self._due = inf

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, work: float, join: Join) -> None:
        """Begin a job of `work`; its end is a part of `join`."""
        self._advance()
        self._count += 1
        heappush(self._jobs, (self._received + work, self._count, join))
        self._plan()

    def _advance(self) -> None:
        now = self._loop.now
        if self._jobs:
            self._received += (now - self._since) * self._rate
        else:
            self._received = 0.0
        self._since = now

    def _plan(self) -> None:
        self._rate = self._pace(len(self._jobs))
        due = self._since + max(0.0, self._jobs[0][0] - self._received) / self._rate
        # More users only put ends off: the event that stands then comes early and is set again.
        if due < self._due:
            self._due = due
            self._loop.at(due, self._look, due)

    def _look(self, due: float) -> None:
        if due != self._due:
            return  # An earlier event took its place.
        self._due = inf
        self._advance()
        jobs = self._jobs
        ended = self._received + _TICK_S * self._rate
        over: list[Join] = []
        while jobs and jobs[0][0] <= ended:
            over.append(heappop(jobs)[2])
        if jobs:
            self._plan()
        for join in over:
            join.part_ended()


def link(loop: Loop, bytes_per_s: float) -> Shared:
    """Return a resource that moves so many bytes a second, whatever the number of users."""
    return Shared(loop, lambda jobs: bytes_per_s / jobs)


def transfer(
    demands: Mapping[Shared, float], done: Callable[[Any], None], argument: Any = None
) -> None:
    """Move bytes over several resources at once; call `done(argument)` when all have moved theirs.

    There is at least one demand.
    """
    join = Join(len(demands), done, argument)
    for resource, size in demands.items():
        resource.add(size, join)
