"""The event loop of the simulation: a clock and a heap of what happens when."""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any


class Loop:
    """Runs calls in the order of their times; calls of one time in the order they were made.

    Time is in seconds and starts at 0. Nothing here is random, so a run is determined by what
    was scheduled first.
    """

    __slots__ = ("_count", "_heap", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0

    def at(self, time: float, call: Callable[[Any], None], argument: Any = None) -> None:
        """Run `call(argument)` at `time`, which is not in the past."""
        assert time >= self.now, "an event cannot lie in the past"
        self._count += 1
        heappush(self._heap, (time, self._count, call, argument))

    def after(self, delay: float, call: Callable[[Any], None], argument: Any = None) -> None:
        """Run `call(argument)` in `delay` seconds."""
        self.at(self.now + delay, call, argument)

    def run(self, until: float = inf) -> None:
        """Run what is due up to `until`; the clock stops at the last call."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, argument = heappop(heap)
            call(argument)
