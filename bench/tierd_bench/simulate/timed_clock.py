"""Virtual time: a clock with a heap of what is due, and processes that wait for it.

A process is a generator. It yields what it waits for: a function that takes how to go on, and
calls that once, later, with the answer. So a request reads from top to bottom as in the real
client, and nothing here is random: a run is decided by what was begun first.
"""

from collections import deque
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any, TypeVar

from tierd.core.units import NS_PER_S

Resume = Callable[[Any], None]
Wait = Callable[[Resume], None]
T = TypeVar("T")
Process = Generator[Wait, Any, T]


class Clock:
    """Integer nanoseconds, from 0 on. What is due at one time runs in the order it was planned."""

    __slots__ = ("_count", "_heap", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self._heap: list[tuple[int, int, Resume, Any]] = []
        self._count = 0

    def at(self, when_ns: int, call: Resume, argument: Any = None) -> None:
        """Have `call(argument)` run at `when_ns`, or now if that is past."""
        self._count += 1
        heappush(self._heap, (max(when_ns, self.now_ns), self._count, call, argument))

    def after(self, delay_ns: int, call: Resume, argument: Any = None) -> None:
        """Have `call(argument)` run in `delay_ns`."""
        self.at(self.now_ns + delay_ns, call, argument)

    def pause(self, delay_ns: int) -> Wait:
        """Return a wait of `delay_ns`."""
        return lambda resume: self.after(delay_ns, resume)

    def step(self) -> bool:
        """Run what is due next; say whether there was anything."""
        if not self._heap:
            return False
        self.now_ns, _, call, argument = heappop(self._heap)
        call(argument)
        return True

    @property
    def now_s(self) -> float:
        """The time in seconds."""
        return self.now_ns / NS_PER_S


def start(process: Process[Any]) -> None:
    """Run a process up to its first wait; what it waits for has it go on."""

    def resume(answer: Any = None) -> None:
        try:
            wait = process.send(answer)
        except StopIteration:
            return
        wait(resume)

    resume()


class Servers:
    """So many servers with one queue: engines that compute, threads that read."""

    def __init__(self, clock: Clock, count: int) -> None:
        self._clock = clock
        self._free = count
        self._queue: deque[Resume] = deque()

    def take(self, resume: Resume) -> None:
        """Go on as soon as a server is free; it is the caller's until `give`."""
        if self._free:
            self._free -= 1
            self._clock.after(0, resume)
        else:
            self._queue.append(resume)

    def give(self) -> None:
        """Let the next in the queue have the server."""
        if self._queue:
            self._clock.after(0, self._queue.popleft())
        else:
            self._free += 1
