"""Who prefills, who decodes, and on which side the KV is read (section 1.3 A to D).

`RoundRobin` is what the paper's ablation has before its scheduler: engines in turn, sides in
turn. `PaperScheduler` is that scheduler. Both only decide; `place` is told each decision.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from math import floor
from typing import Final, Protocol

from tierd_bench.cluster.assumptions import FETCH_INTERVAL_S
from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.parts import Engine, Group, Request

READ_THRESHOLD_S: Final = 3.0
"""alpha: a read queue is short if it can be read in this time."""

LOAD_CAP_S: Final = 5.0
"""beta: an engine is overloaded with more than it processes in this time."""

DECODE_SLACK: Final = 1.05
"""Factor of Z, the token count up to which a decode engine counts as lightly loaded."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """alpha and beta in tokens, profiled on the workload."""

    short_queue_tokens: float
    load_cap_tokens: float


class Scheduler(Protocol):
    """Assigns a prefill and a decode engine to each request, then says so."""

    def submit(self, request: Request) -> None: ...


def pick_prefill(engines: list[Engine], thresholds: Thresholds) -> Engine | None:
    """Return the engine for the next request, or nothing if all are overloaded (section 1.3 A)."""
    able = [engine for engine in engines if engine.tokens <= thresholds.load_cap_tokens]
    short = [engine for engine in able if engine.node.queued <= thresholds.short_queue_tokens]
    return min(short or able, key=_tokens, default=None)


def pick_decode(
    engines: list[Engine], free: dict[int, int], needed: int, light: float
) -> Engine | None:
    """Return the decode engine for a request, or nothing if it fits in none (section 1.3 C).

    `free` holds the free tokens of each engine by its place in `engines`, `light` is Z.
    """
    fitting = [engine for place, engine in enumerate(engines) if free[place] >= needed]
    low = [engine for engine in fitting if engine.tokens + needed <= light]
    if low:
        return min(low, key=_requests)
    return min(fitting, key=_tokens, default=None)


def _tokens(engine: Engine) -> int:
    return engine.tokens


def _requests(engine: Engine) -> int:
    return engine.requests


class RoundRobin:
    """Engines in turn, at once, whatever their load."""

    def __init__(
        self, prefill: list[Engine], decode: list[Engine], place: Callable[[Request], None]
    ) -> None:
        self._prefill = cycle(prefill)
        self._decode = cycle(decode)
        self._place = place

    def submit(self, request: Request) -> None:
        """Assign the next engine of each kind."""
        assign_prefill(request, next(self._prefill))
        assign_decode(request, next(self._decode))
        self._place(request)


class PaperScheduler:
    """Groups fetch work from queues; token counts stand for load of every kind (section 1.3)."""

    def __init__(
        self,
        loop: Loop,
        prefill: list[Group],
        decode: list[Group],
        thresholds: Thresholds,
        free_tokens: Callable[[Engine], int],
        place: Callable[[Request], None],
    ) -> None:
        self._loop = loop
        self._prefill = prefill
        self._decode = decode
        self._thresholds = thresholds
        self._free_tokens = free_tokens
        self._place = place
        self._prefill_queue: deque[Request] = deque()
        self._decode_queue: deque[Request] = deque()
        self._private: dict[int, deque[Request]] = {id(group): deque() for group in decode}
        self._fetching: set[int] = set()

    def submit(self, request: Request) -> None:
        """Queue a request for both kinds of engine."""
        self._prefill_queue.append(request)
        self._decode_queue.append(request)
        for place, group in enumerate(self._prefill):
            self._next_fetch(group, place / len(self._prefill), self._fetch_prefill)
        for place, group in enumerate(self._decode):
            self._next_fetch(group, place / len(self._decode), self._fetch_decode)

    def _next_fetch(
        self, group: Group, phase: float, fetch: Callable[[tuple[Group, float]], None]
    ) -> None:
        """Have `group` fetch at its next time; groups of a kind take turns within an interval."""
        if id(group) in self._fetching:
            return
        self._fetching.add(id(group))
        # The hair's breadth keeps rounding from giving the present time again.
        ticks = floor(self._loop.now / FETCH_INTERVAL_S - phase + 1e-6) + 1
        self._loop.at((ticks + phase) * FETCH_INTERVAL_S, fetch, (group, phase))

    def _fetch_prefill(self, fetched: tuple[Group, float]) -> None:
        group, phase = fetched
        self._fetching.discard(id(group))
        queue = self._prefill_queue
        while queue:
            engine = pick_prefill(group.engines, self._thresholds)
            if engine is None:
                self._next_fetch(group, phase, self._fetch_prefill)
                return
            request = queue.popleft()
            assign_prefill(request, engine)
            self._place_if_whole(request)

    def _fetch_decode(self, fetched: tuple[Group, float]) -> None:
        group, phase = fetched
        self._fetching.discard(id(group))
        self._share_out()
        queue = self._private[id(group)]
        free = {n: self._free_tokens(engine) for n, engine in enumerate(group.engines)}
        light = self._light(group, queue, sum(free.values()))
        while queue:
            needed = length(queue[0])
            engine = pick_decode(group.engines, free, needed, light)
            if engine is None:
                self._next_fetch(group, phase, self._fetch_decode)
                return
            request = queue.popleft()
            group.queue_tokens -= needed
            free[group.engines.index(engine)] -= needed
            assign_decode(request, engine)
            self._place_if_whole(request)

    def _share_out(self) -> None:
        """Give each queued request to the group with the fewest tokens (section 1.3 B)."""
        queue = self._decode_queue
        while queue:
            request = queue.popleft()
            group = min(self._decode, key=_group_tokens)
            group.queue_tokens += length(request)
            self._private[id(group)].append(request)
            # Its next fetch finds it.
            self._next_fetch(
                group, self._decode.index(group) / len(self._decode), self._fetch_decode
            )

    def _light(self, group: Group, queue: deque[Request], free: int) -> float:
        """Return Z: the mean load if all that fits in the group's memory were assigned."""
        fitting = 0
        for request in queue:
            if fitting + length(request) > free:
                break
            fitting += length(request)
        held = sum(engine.tokens for engine in group.engines)
        return DECODE_SLACK * (fitting + held) / len(group.engines)

    def _place_if_whole(self, request: Request) -> None:
        if request.prefill is not None and request.decode is not None:
            self._place(request)


def _group_tokens(group: Group) -> int:
    return group.queue_tokens + sum(engine.tokens for engine in group.engines)


def length(request: Request) -> int:
    """Return the tokens that a request stands for: its prompt, as its answer is not known."""
    return request.prompt


def assign_prefill(request: Request, engine: Engine) -> None:
    """Make `engine` prefill `request`, and count it there."""
    request.prefill = engine
    engine.tokens += length(request)
    engine.requests += 1


def assign_decode(request: Request, engine: Engine) -> None:
    """Make `engine` decode `request`, and count it there."""
    request.decode = engine
    engine.tokens += length(request)
    engine.requests += 1


def unassign(request: Request, engine: Engine) -> None:
    """Take a finished request off the engine's counts."""
    engine.tokens -= length(request)
    engine.requests -= 1
