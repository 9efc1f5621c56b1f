"""One fetch on the clock: how the blocks of a lease come, as the client's `Transfer` has them come.

Which routes, and which block by which, is decided by the very objects that the client uses
(`tierd_client.splitting`); here is what runs around them. Nothing fails, so there is nothing of
what the client does about that, but for the staged route: it may have no slots, or go silent.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from tierd.control import events as ev
from tierd.core.units import NS_PER_S
from tierd_bench.simulate.timed_clock import Process, Resume, Servers, start
from tierd_bench.simulate.timed_daemon import SimulatedDaemon
from tierd_client.placement import PlacedRun
from tierd_client.splitting import DIRECT_READS_MAX, Split, Splitter, TwoEnded

_PIECE_BYTES: Final = 4 << 20
_PIECE_SLOTS_MAX: Final = 256
_QUIET_S_MIN: Final = 0.1
_QUIET_RATIO: Final = 4.0


@dataclass(frozen=True, slots=True)
class PieceRead:
    """One direct read has ended."""

    piece: PlacedRun


@dataclass(slots=True)
class Delivered:
    """What a fetch brought: blocks from the first on, by the tier that had them, and bytes by
    route. `cut` says why the prefix is shorter than what was held."""

    blocks: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    route_bytes: dict[str, int] = field(default_factory=dict)
    cut: str = ""


class Transfer:
    """The blocks of one lease on their way to an engine. `run` is a process."""

    def __init__(
        self,
        daemon: SimulatedDaemon,
        readers: Servers,
        reply: ev.Fetched,
        split: Split,
        until_ns: int,
    ) -> None:
        self._daemon = daemon
        self._clock = daemon.clock
        self._readers_pool = readers
        self._lease = reply.lease
        self._split = split
        self._until_ns = until_ns
        self._block_bytes = daemon.layout.part_bytes
        self._news: deque[ev.Landed | PieceRead] = deque()
        self._listening: Resume | None = None
        self._runs = list(_placed(reply.runs))
        self._cold: dict[int, PlacedRun] = {}
        self._staged: set[int] = set()
        left: list[PlacedRun] = []
        for run in self._runs:
            if run.tier <= daemon.entry:
                continue
            indices = range(run.first, run.first + run.count)
            self._cold.update(dict.fromkeys(indices, run))
            if run.pending:
                self._staged.update(indices)
            else:
                left += self._in_regions(run)
        self._waiting = set(self._cold)
        self._ends = TwoEnded(left, self._block_bytes, split)
        self._ends.started("staged", len(self._staged))
        if split.arm == "staged":
            self._ends.leave_to("direct")  # What is left then has found no slot.
        self._readers = 0
        self._hedged = False
        self._over = False
        self.delivered = Delivered()
        self._arrived: list[tuple[int, int]] = []

    def run(self, splitter: Splitter, started_ns: int) -> Process[Delivered]:
        """Bring over what can be had by the deadline; teach `splitter` how it went."""
        self._started_ns = started_ns
        if self._cold:
            self._daemon.on_landed(self._lease, self._put)
            self._read_more()
            self._stage_more()
        for run in self._runs:
            if run.tier <= self._daemon.entry:
                yield from self._copy(run, self._daemon.names[run.tier])
        heard_ns = self._clock.now_ns
        while self._waiting and not self._is_over():
            news = yield from self._hear(heard_ns)
            if isinstance(news, PieceRead):
                self._take_read(news.piece)
            elif news is not None:
                yield from self._take_landed(news)
            else:
                self._hedge()
            heard_ns = self._clock.now_ns
            self._stage_more()
            self._read_more()
        self._over = True
        self._daemon.on_landed(self._lease, None)
        if self._cold and not self.delivered.cut and not self._hedged:
            seconds = (heard_ns - started_ns) / NS_PER_S
            splitter.learn(self._split.arm, seconds, self._ends.moved)
        elif self._hedged:
            splitter.demote("staged", "silent", self._clock.now_s)
        self._count()
        return self.delivered

    # ---- what is heard

    def _put(self, news: ev.Landed | PieceRead) -> None:
        self._news.append(news)
        if self._listening is not None:
            resume, self._listening = self._listening, None
            self._clock.after(0, resume)

    def _hear(self, heard_ns: int) -> Process["ev.Landed | PieceRead | None"]:
        """Return the next news; None if there is none in good time."""
        if not self._news:
            until_ns = self._until_ns
            if self._staged and self._split.arm == "both":
                expected_s = self._ends.expected_s("staged")
                quiet_s = max(_QUIET_S_MIN, _QUIET_RATIO * expected_s)
                until_ns = min(until_ns, heard_ns + int(quiet_s * NS_PER_S))
            yield lambda resume: self._listen(resume, until_ns)
        return self._news.popleft() if self._news else None

    def _listen(self, resume: Resume, until_ns: int) -> None:
        self._listening = resume

        def time_out(_: Any) -> None:
            if self._listening is resume:
                self._listening = None
                resume(None)

        self._clock.at(until_ns, time_out)

    def _is_over(self) -> bool:
        if self._clock.now_ns >= self._until_ns:
            self.delivered.cut = "deadline"
        return bool(self.delivered.cut)

    def _take_landed(self, news: ev.Landed) -> Process[None]:
        """Copy what has landed; what has not is left to the direct route."""
        slots = dict(zip(news.indices, news.slots, strict=True))
        ended = [*news.indices, *news.failed, *news.declined]
        self._staged.difference_update(ended)
        wanted = {index: slot for index, slot in slots.items() if index in self._waiting}
        route = f"{self._daemon.names[self._daemon.entry + 1]}-staged"
        for first, count in _neighbours(wanted):
            yield from self._copy(
                PlacedRun(first, count, self._daemon.entry, slots[first], pending=False), route
            )
        seconds = (self._clock.now_ns - self._started_ns) / NS_PER_S
        self._ends.ended("staged", len(ended), len(slots), seconds)
        self._leave_to_direct(index for index in (*news.failed, *news.declined))

    def _take_read(self, piece: PlacedRun) -> None:
        right = [i for i in range(piece.first, piece.first + piece.count) if i in self._waiting]
        for first, count in _neighbours({index: index for index in right}):
            self._note(first, count, f"{self._daemon.names[piece.tier]}-direct")
        seconds = (self._clock.now_ns - self._started_ns) / NS_PER_S
        self._ends.ended("direct", piece.count, piece.count, seconds)

    def _copy(self, run: PlacedRun, route: str) -> Process[None]:
        """Copy blocks out of mapped slots."""
        size = run.count * self._block_bytes
        yield self._daemon.media[run.tier].turns("read", size)
        self._note(run.first, run.count, route)

    def _note(self, first: int, count: int, route: str) -> None:
        size = count * self._block_bytes
        routes = self.delivered.route_bytes
        routes[route] = routes.get(route, 0) + size
        self._arrived.append((first, count))
        if self._waiting:
            self._waiting.difference_update(range(first, first + count))

    # ---- what is asked for

    def _leave_to_direct(self, indices: Iterable[int]) -> None:
        for index in indices:
            if index in self._waiting:
                self._ends.leave_to("direct")
                self._ends.give_back(self._cold[index].part(index, 1))

    def _hedge(self) -> None:
        """Read past the daemon what the staged route has gone silent over."""
        if self._is_over() or not self._staged:
            return
        self._hedged = True
        self._leave_to_direct(sorted(self._staged & self._waiting, reverse=True))
        self._staged.clear()

    def _stage_more(self) -> None:
        for run in self._ends.take_front():
            self._staged.update(range(run.first, run.first + run.count))
            self._daemon.tell(partial(self._stage, run))

    def _stage(self, run: PlacedRun, session: int) -> ev.Stage:
        return ev.Stage(session, self._lease, run.first, run.count)

    def _read_more(self) -> None:
        if self._ends.is_empty or not self._ends.uses_direct or not self._waiting:
            return
        idle = DIRECT_READS_MAX - self._readers
        self._readers += idle
        for _ in range(idle):
            start(self._read())

    def _read(self) -> Process[None]:
        """In a thread of the client: read pieces from the back until the routes meet."""
        yield self._readers_pool.take
        piece_blocks = min(
            _PIECE_SLOTS_MAX, max(1, _PIECE_BYTES // self._daemon.layout.block_bytes)
        )
        while not self._over and self._clock.now_ns < self._until_ns:
            piece = self._ends.take_back(piece_blocks)
            if piece is None:
                break
            yield self._daemon.media[piece.tier].move("read", piece.count * self._block_bytes)
            self._put(PieceRead(piece))
        self._readers -= 1
        self._readers_pool.give()

    # ---- sums

    def _count(self) -> None:
        """Count the blocks that have arrived from the first on, by the tier that had them."""
        length = 0
        for first, count in sorted(self._arrived):
            if first > length:
                break
            length = max(length, first + count)
        self.delivered.blocks = length
        for run in self._runs:
            count = max(0, min(run.count, length - run.first))
            if count:
                tier = self._daemon.names[run.tier]
                by_tier = self.delivered.by_tier
                by_tier[tier] = by_tier.get(tier, 0) + count

    def _in_regions(self, run: PlacedRun) -> Iterator[PlacedRun]:
        """Cut a run into neighbours of one region, which are one file."""
        region_slots = self._daemon.region_slots[run.tier]
        first, end = run.first, run.first + run.count
        while first < end:
            in_region = region_slots - (run.slot + first - run.first) % region_slots
            count = min(in_region, end - first)
            yield run.part(first, count)
            first += count


def _placed(runs: Sequence[ev.Run]) -> Iterator[PlacedRun]:
    first = 0
    for run in runs:
        yield PlacedRun(first, run.count, run.tier, run.slot, run.pending)
        first += run.count


def _neighbours(slots: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Yield runs (first, count) of consecutive indices in consecutive slots."""
    first = count = 0
    for index in sorted(slots):
        if count and index == first + count and slots[index] == slots[first] + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count
