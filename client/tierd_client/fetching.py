"""One fetch, from the reply to the last byte: every block by one of its routes."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tierd_client.buffers import Buffers, runs
from tierd_client.connection import Connection
from tierd_client.loader import Delivery, Gate, Leased, Loader, PieceRead
from tierd_client.placement import PlacedRun, placed_runs
from tierd_client.renewal import Renewal
from tierd_client.results import Fetched
from tierd_client.splitting import DIRECT_READS_MAX, Split, Splitter, TwoEnded, Way
from tierd_proto.v1 import tierd_pb2 as pb

_STEP_BYTES: Final = 1 << 30
"""Bytes between two looks at the deadline."""

_QUIET_S_MIN: Final = 0.25
_QUIET_RATIO: Final = 4.0
"""A route that is silent for so many times what it should need is hedged by the other."""


def summary(
    connection: Connection, reply: pb.FetchReply, delivery: Delivery, seconds: float
) -> Fetched:
    """Return what a delivery amounts to."""
    end = min(delivery.prefix(), reply.blocks)
    by_tier: dict[str, int] = {}
    for run in placed_runs(reply, delivery.first):
        tier = connection.tiers[run.tier]
        count = max(0, min(run.count, end - run.first))
        if count:
            by_tier[tier] = by_tier.get(tier, 0) + count
    return Fetched(
        end - delivery.first, by_tier, delivery.routes, seconds, delivery.cut, delivery.why
    )


class Transfer:
    """The blocks of one lease on their way into the caller's memory.

    Blocks in mapped memory are copied at once. Those on disk are dealt to two routes from the two
    ends of the chain: the daemon reads from the front into slots of its own, which are copied as
    they land; threads of the client read from the back, past the daemon. What one route does not
    bring goes to the other. A block is read twice only where a route has gone silent.

    Concurrency: `run` in one thread, which alone touches what has arrived; `_read` in others.
    """

    def __init__(
        self,
        connection: Connection,
        loader: Loader,
        reply: pb.FetchReply,
        leased: Leased,
        buffers: Buffers,
        split: Split,
    ) -> None:
        self._connection = connection
        self._loader = loader
        self._leased = leased
        self._buffers = buffers
        self._split = split
        self._delivery = Delivery(leased.first)
        self._news = connection.news(leased.lease)
        self._ready: list[PlacedRun] = []
        self._cold: dict[int, PlacedRun] = {}  # By index, each with its run on the medium.
        self._staged: set[int] = set()
        self._failed: dict[int, set[Way]] = {}
        left: list[PlacedRun] = []
        for run in placed_runs(reply, leased.first):
            if connection.mapped[run.tier]:
                self._ready.append(run)
                continue
            indices = range(run.first, run.first + run.count)
            self._cold.update(dict.fromkeys(indices, run))
            if run.pending:
                self._staged.update(indices)
            else:
                left += loader.pieces(run)
        if split.arm == "none":
            self._staged, left = set(), []
        self._waiting = set(self._cold) if split.arm != "none" else set()
        self._lock = threading.Lock()
        self._ends = TwoEnded(left, buffers.part_bytes, split)
        self._ends.started("staged", len(self._staged))
        if split.arm == "staged":
            self._ends.leave_to("direct")  # What is left then has found no slot.
        self._renewal = Renewal(connection, leased.lease, leased.term_s)
        self._gate = Gate(buffers)
        self._readers = 0

    def run(self, splitter: Splitter, started_s: float) -> Delivery:
        """Bring over what can be had by the deadline; teach `splitter` how it went."""
        self._started_s = started_s
        self._read_more()
        self._stage_more()
        for run in self._ready:
            self._copy(run, self._loader.route(run.tier))
        heard_s = time.monotonic()
        while self._waiting and not self._is_over():
            news = self._hear(heard_s)
            if news is None:
                self._hedge()
            else:
                self._take(news)
            heard_s = time.monotonic()
            self._stage_more()
            self._read_more()
        # The device may write to the caller's memory, which cannot be taken back from it.
        self._gate.shut()
        if self._cold:
            self._delivery.why = self._split.why
            self._learn(splitter, heard_s)
        return self._delivery

    # ---- what is heard

    def _is_over(self) -> bool:
        """Say whether to wait for nothing more, and note why."""
        if self._delivery.cut in ("", "read failed"):
            if self._leased.is_late():
                self._delivery.cut = "deadline"
            elif not self._connection.alive:
                self._delivery.cut = "daemon away"
        return self._delivery.cut not in ("", "read failed")

    def _hear(self, heard_s: float) -> Any:
        """Return the next `Landed` or `PieceRead`; None if there is none in good time."""
        with self._lock:
            expected_s = self._ends.expected_s("staged")
        quiet_s = heard_s + max(_QUIET_S_MIN, _QUIET_RATIO * expected_s)
        until_s = self._leased.until_s
        if self._staged and self._split.arm == "both":
            until_s = min(until_s, quiet_s)
        while True:
            self._renewal.renew_if_due()
            wait_s = min(until_s, self._renewal.due_s) - time.monotonic()
            try:
                return self._news.get(timeout=max(0.0, wait_s))
            except queue.Empty:
                if time.monotonic() >= until_s:
                    return None

    def _take(self, news: pb.Landed | PieceRead | None) -> None:
        if isinstance(news, PieceRead):
            self._take_read(news)
        elif news is not None:
            self._take_landed(news)

    def _take_landed(self, news: pb.Landed) -> None:
        """Copy what has landed; what has not is left to the direct route."""
        slots = dict(zip(news.indices, news.slots, strict=True))
        ended = [*news.indices, *news.failed, *news.declined]
        self._staged.difference_update(ended)
        entry = self._connection.entry
        for first, count in _neighbours({i: s for i, s in slots.items() if i in self._waiting}):
            run = PlacedRun(first, count, entry, slots[first], pending=False)
            self._copy(run, self._loader.staged_route())
        seconds = time.monotonic() - self._started_s
        if (use := self._delivery.routes.get(self._loader.staged_route())) is not None:
            use.seconds = seconds  # From the request to the last block, reading included.
        with self._lock:
            self._ends.ended("staged", len(ended), len(slots), seconds)
        for index in news.failed:
            self._hand_over("staged", index)
        for index in news.declined:
            self._hand_over("staged", index)

    def _take_read(self, news: PieceRead) -> None:
        """Count what was read directly; what was not is left to the staged route."""
        now_s = time.monotonic()
        piece = news.piece
        right = [index for index in news.right if index in self._waiting]
        route = self._loader.route(piece.tier)
        for first, count in runs(right):
            size = count * self._buffers.part_bytes
            self._delivery.add(first, count, route, size, 0.0)
        if right:
            use = self._delivery.routes[route]
            use.seconds, use.mechanism = now_s - self._started_s, news.mechanism
        self._waiting.difference_update(right)
        with self._lock:
            seconds = now_s - self._started_s
            self._ends.ended("direct", piece.count, len(news.right), seconds)
        for index in news.corrupt:
            self._give_up(index, unanswered=False)
        if news.unanswered:
            self._delivery.failures["direct"] = news.unanswered
            for index in range(piece.first, piece.first + piece.count):
                self._hand_over("direct", index)
        elif not news.right and not news.corrupt and not self._leased.is_late():
            self._delivery.cut = "lease expired"

    def _copy(self, run: PlacedRun, route: str) -> None:
        """Copy blocks out of mapped slots."""
        step = max(1, _STEP_BYTES // self._buffers.part_bytes)
        for first in range(run.first, run.first + run.count, step):
            if self._is_over():
                return
            piece = run.part(first, min(step, run.first + run.count - first))
            start = time.perf_counter()
            try:
                count = self._loader.load_ready(piece, self._leased, self._buffers)
            except OSError:  # The driver of the GPU whose memory it is.
                self._end_before(first)
                return
            seconds = time.perf_counter() - start
            size = count * self._buffers.part_bytes
            self._delivery.add(first, count, route, size, seconds)
            self._waiting.difference_update(range(first, first + count))
            if count < piece.count:
                self._delivery.cut = "deadline" if self._leased.is_late() else "lease expired"
                return

    # ---- what fails

    def _hand_over(self, way: Way, index: int) -> None:
        """Have the other route bring a block, unless that has failed to, too."""
        if index not in self._waiting:
            return
        ways = self._failed.setdefault(index, set())
        ways.add(way)
        if len(ways) == 2:
            self._give_up(index, unanswered=True)
        elif way == "staged":
            with self._lock:
                self._ends.leave_to("direct")
                self._ends.give_back(self._cold[index].part(index, 1))
        else:
            with self._lock:
                self._ends.leave_to("staged")
                self._ends.started("staged", 1)
            self._stage([index])

    def _give_up(self, index: int, *, unanswered: bool) -> None:
        """End the prefix before a block that cannot be had."""
        if index not in self._waiting:
            return
        self._end_before(index)
        lease = self._leased.lease
        report = pb.ReadFailed(lease=lease, index=index, unanswered=unanswered)
        self._connection.stream.tell(read_failed=report)

    def _end_before(self, index: int) -> None:
        self._delivery.cut = "read failed"
        self._waiting = {other for other in self._waiting if other < index}
        with self._lock:
            self._ends.drop_from(index)

    def _hedge(self) -> None:
        """Read by ourselves what the staged route has gone silent over."""
        if self._is_over() or not self._staged:
            return
        late = sorted(self._staged & self._waiting)
        self._delivery.failures["staged"] = "silent"
        with self._lock:
            self._ends.leave_to("direct")
            for index in late:
                self._ends.give_back(self._cold[index].part(index, 1))
        self._staged.clear()

    # ---- what is asked for

    def _stage_more(self) -> None:
        with self._lock:
            taken = self._ends.take_front()
        if taken:
            self._stage(i for run in taken for i in range(run.first, run.first + run.count))

    def _stage(self, indices: Iterable[int]) -> None:
        wanted = sorted(indices)
        self._staged.update(wanted)
        for first, count in runs(wanted):
            request = pb.Stage(lease=self._leased.lease, first=first, blocks=count)
            self._connection.stream.tell(stage=request)

    def _read_more(self) -> None:
        """Have as many threads read directly as there is use for."""
        with self._lock:
            wanted = DIRECT_READS_MAX if self._loader.reads_media else 1
            idle = wanted - self._readers
            if self._ends.is_empty or not self._ends.uses_direct or not self._waiting:
                return
            self._readers += idle
        for _ in range(idle):
            self._loader.submit(self._read)

    def _read(self) -> None:
        """In a thread: read pieces from the back until the routes meet."""
        while True:
            with self._lock:
                late = self._leased.is_late()
                piece = None if late else self._ends.take_back(self._loader.piece_blocks)
                if piece is None:
                    self._readers -= 1
                    return
            read = PieceRead(piece, unanswered="the read was broken off")
            try:
                read = self._loader.read_piece(piece, self._leased, self._buffers, self._gate)
            finally:
                self._news.put(read)  # Whatever happens: it is waited for.

    def _learn(self, splitter: Splitter, ended_s: float) -> None:
        """Tell what the routes reached, and which of them failed."""
        now_s = time.monotonic()
        with self._lock:
            moved = self._ends.moved
        with self._connection.splitting:
            for way, cause in self._delivery.failures.items():
                splitter.demote(way, cause, now_s)
            if not self._delivery.cut and not self._delivery.failures:
                splitter.learn(self._split.arm, ended_s - self._started_s, moved)


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
