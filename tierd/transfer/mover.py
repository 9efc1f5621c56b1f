"""Runs the moves that the store asks for, and reports each end to it.

Every move has the entry tier, whose slots are memory, on one side. Into a tier with an index a
batch is written, made durable, and only then recorded, so that a record never points at bytes
that are not there. What moves when was decided by control, who goes first on a medium by `lanes`;
a fault is reported, not retried, and what it says of the medium is left to `prober`.
"""

import asyncio
import logging
import resource
from collections import defaultdict
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from time import monotonic_ns
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, TypeVar

from tierd.control.events import (
    DropRecords,
    Move,
    MoveClass,
    MoveDone,
    MovesDone,
    MovesStalled,
    StartMoves,
    Urge,
)
from tierd.core.errors import CorruptSlot, TierOffline
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_S, MiB
from tierd.index.lmdb_index import IndexChange, IndexRecord
from tierd.tiers.base import SlotRead, SlotWrite, Space
from tierd.transfer.health import Access
from tierd.transfer.lanes import Lanes
from tierd.transfer.prober import Prober
from tierd.transfer.usage import RouteUse, Stopwatch, Wear

_READ_PIECE_BYTES: Final = 8 * MiB
"""A read of more is split, so that its first blocks land while the rest is under way."""

_SMALL_PIECE_BYTES: Final = 2 * MiB
"""The same for what nobody waits for: so much may be in the way of somebody who does."""

_RUSAGE_BLOCK_BYTES: Final = 512

Fault = Literal["source", "target"]
"""Whose fault it is that the target does not hold the bytes."""

_R = TypeVar("_R")

log = logging.getLogger("tierd.mover")


class MemorySpace(Space, Protocol):
    """A space whose slots are memory of this process."""

    def view(self, slot: int) -> memoryview: ...


class Records(Protocol):
    """The index of a tier that outlives the process."""

    def commit(self, changes: Sequence[IndexChange]) -> None: ...


@dataclass(slots=True)
class SpaceRow:
    """One namespace's spaces, by tier, and its fingerprint."""

    fingerprint: bytes
    entry: MemorySpace
    spaces: Sequence[Space]


@dataclass(slots=True)
class _Indexed:
    """A tier with an index, and what its next commit is to drop and to add."""

    records: Records
    dropped: dict[int, list[BlockKey]] = field(default_factory=lambda: defaultdict(list))
    waiting: list[tuple[Sequence[IndexChange], "asyncio.Future[None]"]] = field(
        default_factory=list
    )


@dataclass(frozen=True, slots=True)
class _Io:
    """One call to a tier, for `moves`, by number.

    `place` tells its faults from those of others; None if it is only then found out which it was.
    """

    tier: int
    access: Access
    urgency: MoveClass
    size: int
    place: Hashable
    moves: Sequence[int]


class Mover:
    """Moves bytes between the entry tier and the others.

    Concurrency: belongs to one event loop. `rows[n]` is namespace n, and may grow.
    `header_bytes` are those of a slot's header, by tier, and `stripes` the devices of a tier, where
    it has several. `at_point` is told when a batch has been
    "written", "synced" and "recorded", so that a crash test can end the process there.
    """

    def __init__(
        self,
        rows: Sequence[SpaceRow],
        entry: int,
        indexes: dict[int, Records],
        first_sequence: int,
        report: Callable[[MovesDone | MovesStalled], None],
        prober: Prober,
        header_bytes: Mapping[int, int],
        at_point: Callable[[str], None] = lambda point: None,
        stripes: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._rows = rows
        self._entry = entry
        self._indexed = {tier: _Indexed(records) for tier, records in indexes.items()}
        self._sequences = count(first_sequence)
        self._report = report
        self._prober = prober
        self._header_bytes = header_bytes
        self._at_point = at_point
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[Fault | None]] = set()
        self._stripes = stripes
        self._lanes: dict[int, Lanes] = {}
        self._urgeable: dict[int, Callable[[], None]] = {}
        self._committing = asyncio.Lock()
        self.routes: dict[tuple[int, int], RouteUse] = defaultdict(RouteUse)
        self.wear: dict[int, Wear] = defaultdict(Wear)
        self._watches: dict[tuple[int, int], Stopwatch] = {}

    def start(self, action: StartMoves) -> None:
        """Run the moves of one route in the background."""
        moves, urgency = action.moves, action.urgency
        if moves[0].target != self._entry:
            self._spawn(self._run(moves, self._write(moves, urgency)))
            return
        size = _READ_PIECE_BYTES if urgency == "demand" else _SMALL_PIECE_BYTES
        for piece in self._pieces(moves, size):
            self._spawn(self._run(piece, self._read(piece, urgency)))

    def urge(self, action: Urge) -> None:
        """Let moves go before those that nobody waits for."""
        for move in action.moves:
            if (urge := self._urgeable.get(move)) is not None:
                urge()

    def expect_demand(self, tier: int) -> None:
        """Keep the way clear on a tier: a client reads from it by itself now."""
        self._lanes_of(tier).expect_demand()

    def drop_records(self, action: DropRecords) -> None:
        """Forget copies, in the index together with its next commit."""
        self._indexed[action.tier].dropped[action.namespace].extend(action.keys)

    async def flush_records(self) -> None:
        """Commit what is to be forgotten now. What a faulty tier refuses is tried at the next."""
        for tier in self._indexed:
            try:
                self._prober.check(tier, "write")
                await self._commit(tier, [])
            except TierOffline as error:
                log.debug("records are not dropped yet: %s", error)

    async def idle(self) -> None:
        """Return when no move is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def read_into(
        self, namespace: int, tier: int, slot: int, key: BlockKey, target: memoryview
    ) -> Fault | None:
        """Read one block straight into `target`, without a slot of the entry tier.

        Returns whose fault it is if `target` does not hold the bytes of `key`: its tier may not
        have answered, and may write to `target` still.
        """
        space = self._rows[namespace].spaces[tier]
        io = _Io(tier, "read", "demand", len(target), (namespace, slot), ())
        reading = self._read_one(io, partial(space.read, [SlotRead(slot, key, target)]))
        task = asyncio.get_running_loop().create_task(reading)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        done, _ = await asyncio.wait({task}, timeout=self._prober.stall_ns / NS_PER_S)
        return task.result() if done else "target"

    def _lanes_of(self, tier: int) -> Lanes:
        if tier not in self._lanes:
            self._lanes[tier] = Lanes(monotonic_ns, devices=self._stripes.get(tier, 1))
        return self._lanes[tier]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            # A bug: the loop's exception handler stops the daemon.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "mover", "exception": bug}
            )

    def _pieces(self, moves: Sequence[Move], size: int) -> Iterator[Sequence[Move]]:
        block_bytes = self._rows[moves[0].namespace].entry.spec.layout.block_bytes
        step = max(1, size // block_bytes)
        return (moves[first : first + step] for first in range(0, len(moves), step))

    async def _run(
        self, moves: Sequence[Move], work: Coroutine[Any, Any, Sequence[Fault | None]]
    ) -> None:
        """Await `work`, which moves all of `moves`, and report how each ended."""
        first = moves[0]
        route = self.routes[first.source, first.target]
        watch = self._watches.setdefault((first.source, first.target), Stopwatch(route))
        watch.begin(monotonic_ns())
        try:
            faults = await work
        except TierOffline:
            faults = ["target"] * len(moves)
        moved = sum(fault is None for fault in faults)
        size = moved * self._rows[first.namespace].entry.spec.layout.block_bytes
        watch.end(monotonic_ns(), moved, size, len(moves) - moved)
        ends = zip(moves, faults, strict=True)
        self._report(MovesDone([MoveDone(move.move, fault) for move, fault in ends]))

    async def _read(self, moves: Sequence[Move], urgency: MoveClass) -> list[Fault | None]:
        try:
            return await self._read_piece(moves, urgency)
        except TierOffline:
            self._prober.check(moves[0].source, "read")
        return await self._read_singly(moves, urgency)

    async def _read_singly(self, moves: Sequence[Move], urgency: MoveClass) -> list[Fault | None]:
        """Read once more what failed in one piece, block by block, to find which it is.

        A tier that is well and twice refused one block has lost that one: it would be promised and
        refused for ever. One that turns out not to be well has lost nothing yet.
        """
        faults: list[Fault | None] = []
        for move in moves:
            try:
                faults += await self._read_piece([move], urgency)
            except TierOffline:
                faults.append("source")
        self._prober.check(moves[0].source, "read")
        return faults

    async def _read_piece(self, moves: Sequence[Move], urgency: MoveClass) -> list[Fault | None]:
        first = moves[0]
        row = self._rows[first.namespace]
        reads = [SlotRead(m.source_slot, m.key, row.entry.view(m.target_slot)) for m in moves]
        size = len(moves) * row.entry.spec.layout.block_bytes
        numbers = [move.move for move in moves]
        place = (first.namespace, first.source_slot) if len(moves) == 1 else None
        io = _Io(first.source, "read", urgency, size, place, numbers)
        faults = await self._transfer(io, partial(row.spaces[first.source].read, reads))
        for fault in faults:
            if fault is not None:
                log.warning("corrupt slot dropped: %s", fault)
        return ["source" if isinstance(fault, CorruptSlot) else None for fault in faults]

    async def _read_one(
        self, io: _Io, read: Callable[[], Coroutine[Any, Any, list[CorruptSlot | None]]]
    ) -> Fault | None:
        try:
            [fault] = await self._transfer(io, read)
        except TierOffline:
            return "target"
        return "source" if fault is not None else None

    async def _write(self, moves: Sequence[Move], urgency: MoveClass) -> list[Fault | None]:
        first = moves[0]
        row, target = self._rows[first.namespace], first.target
        space = row.spaces[target]
        self._prober.check(target, "write")
        numbers = [move.move for move in moves]
        sequences = [next(self._sequences) for _ in moves]
        own = _Io(target, "write", urgency, 0, sequences[0], numbers)
        if target in self._indexed:
            # Before a slot is written anew, no record says that it holds what it held.
            await self._ask(own, partial(self._commit, target, ()))
        writes = {
            m.move: SlotWrite(m.target_slot, m.key, m.parent, number, row.entry.view(m.source_slot))
            for m, number in zip(moves, sequences, strict=True)
        }
        pieces = [[writes[m.move] for m in p] for p in self._pieces(moves, _SMALL_PIECE_BYTES)]
        # All have ended before any fault is reported: until then the slots are in use.
        ends = await asyncio.gather(
            *(self._write_piece(replace(own, place=p[0].sequence), space, p) for p in pieces),
            return_exceptions=True,
        )
        for end in ends:
            if end is not None:
                raise end
        if target in self._indexed:
            self._at_point("written")
            await self._ask(own, space.sync)
            self._at_point("synced")
            added = [IndexRecord(w.key, w.parent, w.slot, w.sequence) for w in writes.values()]
            change = IndexChange(row.fingerprint, added, ())
            await self._ask(own, partial(self._commit, target, [change]))
            self._at_point("recorded")
        layout = space.spec.layout
        self.wear[target].payload_bytes += len(moves) * layout.shards * layout.part_bytes
        return [None] * len(moves)

    async def _write_piece(self, own: _Io, space: Space, writes: Sequence[SlotWrite]) -> None:
        size = len(writes) * space.spec.layout.block_bytes
        await self._transfer(replace(own, size=size), partial(space.write, writes))
        headers = len(writes) * self._header_bytes.get(own.tier, 0)
        self.wear[own.tier].medium_bytes += size + headers

    async def _transfer(self, io: _Io, work: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """Have a tier do `work` when it is the turn of that.

        Raises:
            TierOffline: the tier refused, or is not asked.
        """
        lanes = self._lanes_of(io.tier)
        ticket = lanes.enter(io.urgency, io.size)
        self._urgeable.update(dict.fromkeys(io.moves, partial(lanes.urge, ticket)))
        try:
            await ticket.granted
            self._prober.check(io.tier, io.access)
            # One that stalls makes way for the others; it may go on for as long as it takes.
            return await self._ask(io, work, partial(lanes.leave, ticket))
        finally:
            for move in io.moves:
                self._urgeable.pop(move, None)
            lanes.leave(ticket)

    async def _ask(
        self,
        io: _Io,
        work: Callable[[], Coroutine[Any, Any, _R]],
        on_stall: Callable[[], None] = lambda: None,
    ) -> _R:
        """Have a tier do `work`. If it does not answer, say so; it is waited for all the same.

        A thread may be in the middle of the slots, so these are not free before it is back.
        """
        stall_s = self._prober.stall_ns / NS_PER_S
        timer = asyncio.get_running_loop().call_later(stall_s, self._stalled, io, on_stall)
        try:
            return await work()
        except TierOffline as error:
            if io.place is not None:
                self._prober.fault(io.tier, io.access, io.place, error)
            raise
        finally:
            timer.cancel()

    def _stalled(self, io: _Io, on_stall: Callable[[], None]) -> None:
        self._prober.stalled(io.tier, io.access)
        self._report(MovesStalled(io.moves))
        on_stall()

    async def _commit(self, tier: int, added: Sequence[IndexChange]) -> None:
        """Add to the index, and drop what is due, in one transaction with all who wait for it."""
        indexed = self._indexed[tier]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        indexed.waiting.append((added, done))
        async with self._committing:
            if not done.done():
                await self._commit_all(tier, indexed)
        done.result()

    async def _commit_all(self, tier: int, indexed: _Indexed) -> None:
        group, indexed.waiting = indexed.waiting, []
        dropped, indexed.dropped = indexed.dropped, defaultdict(list)
        # Drops come first: a key that was dropped and is added again must stay.
        drops = [IndexChange(self._rows[n].fingerprint, (), keys) for n, keys in dropped.items()]
        changes = [*drops, *(change for added, _ in group for change in added)]
        try:
            if changes:
                written = await asyncio.to_thread(_commit, indexed.records, changes)
                self.wear[tier].medium_bytes += written
        except TierOffline as error:
            for namespace, keys in dropped.items():
                indexed.dropped[namespace][:0] = keys
            for _, done in group:
                done.set_exception(error)
            return
        for _, done in group:
            done.set_result(None)


def _commit(records: Records, changes: Sequence[IndexChange]) -> int:
    """Commit `changes`; return how many bytes the kernel counted as written by this thread."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_oublock
    records.commit(changes)
    after = resource.getrusage(resource.RUSAGE_THREAD).ru_oublock
    return (after - before) * _RUSAGE_BLOCK_BYTES
