"""Runs the moves that the store asks for, and reports each end to it.

Every move has the entry tier, whose slots are memory, on one side. Into a tier with an index a
batch is written, made durable, and only then recorded, so that a record never points at bytes
that are not there. What moves when was decided by control; a fault is reported, not retried.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import monotonic_ns
from typing import Literal, Protocol

from tierd.control.events import DropRecords, Move, MoveDone, MovesDone, StartMoves
from tierd.core.errors import CorruptSlot, TierOffline
from tierd.core.keys import BlockKey
from tierd.core.units import MiB
from tierd.index.lmdb_index import IndexChange, IndexRecord
from tierd.tiers.base import SlotRead, SlotWrite, Space
from tierd.transfer.usage import RouteUse, Stopwatch

_READ_PIECE_BYTES = 8 * MiB
"""A read of more is split, so that its first blocks land while the rest is under way."""

_READS_MAX = 8
"""Pieces under way at once; those beyond wait in the order of their start."""

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
    """A tier with an index, and what is to be dropped from that with its next commit."""

    records: Records
    dropped: dict[int, list[BlockKey]] = field(default_factory=lambda: defaultdict(list))


class Mover:
    """Moves bytes between the entry tier and the others.

    Concurrency: belongs to one event loop. `rows[n]` is namespace n, and may grow.
    `at_point` is told when a batch has been "written", "synced" and "recorded", so that a crash
    test can end the process there.
    """

    def __init__(
        self,
        rows: Sequence[SpaceRow],
        entry: int,
        indexes: dict[int, Records],
        first_sequence: int,
        report: Callable[[MovesDone], None],
        at_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._rows = rows
        self._entry = entry
        self._indexed = {tier: _Indexed(records) for tier, records in indexes.items()}
        self._sequences = count(first_sequence)
        self._report = report
        self._at_point = at_point
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Semaphore(_READS_MAX)
        self._committing = asyncio.Lock()
        self.causes: dict[int, str] = {}
        self.routes: dict[tuple[int, int], RouteUse] = defaultdict(RouteUse)
        self._watches: dict[tuple[int, int], Stopwatch] = {}

    def start(self, action: StartMoves) -> None:
        """Run the moves of one route in the background."""
        moves = action.moves
        if moves[0].target != self._entry:
            self._spawn(moves)
            return
        block_bytes = self._rows[moves[0].namespace].entry.spec.layout.block_bytes
        piece = max(1, _READ_PIECE_BYTES // block_bytes)
        for first in range(0, len(moves), piece):
            self._spawn(moves[first : first + piece])

    def drop_records(self, action: DropRecords) -> None:
        """Forget copies, in the index together with its next commit."""
        self._indexed[action.tier].dropped[action.namespace].extend(action.keys)

    async def flush_records(self) -> None:
        """Commit what is to be forgotten now."""
        for tier in self._indexed:
            await self._commit(tier, [])

    async def idle(self) -> None:
        """Return when no move is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def read_into(
        self, namespace: int, tier: int, slot: int, key: BlockKey, target: memoryview
    ) -> bool:
        """Read one block straight into `target`, without a slot of the entry tier.

        Returns whether the bytes are those of `key`.
        """
        space = self._rows[namespace].spaces[tier]
        async with self._reading:
            try:
                [fault] = await space.read([SlotRead(slot, key, target)])
            except TierOffline as error:
                self._note(tier, error)
                return False
        return fault is None

    def _spawn(self, moves: Sequence[Move]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(moves))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            # A bug: the loop's exception handler stops the daemon.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "mover", "exception": bug}
            )

    async def _run(self, moves: Sequence[Move]) -> None:
        first = moves[0]
        row = self._rows[first.namespace]
        route = self.routes[first.source, first.target]
        watch = self._watches.setdefault((first.source, first.target), Stopwatch(route))
        watch.begin(monotonic_ns())
        try:
            if first.target == self._entry:
                async with self._reading:
                    faults = await self._read(row, moves)
            else:
                await self._write(row, moves)
                faults = [None] * len(moves)
        except TierOffline as error:
            tier = first.source if first.target == self._entry else first.target
            self._note(tier, error)
            faults = ["target"] * len(moves)
        moved = sum(fault is None for fault in faults)
        size = moved * row.entry.spec.layout.block_bytes
        watch.end(monotonic_ns(), moved, size, len(moves) - moved)
        ends = zip(moves, faults, strict=True)
        self._report(MovesDone([MoveDone(move.move, fault) for move, fault in ends]))

    async def _read(
        self, row: SpaceRow, moves: Sequence[Move]
    ) -> list[Literal["source", "target"] | None]:
        reads = [SlotRead(m.source_slot, m.key, row.entry.view(m.target_slot)) for m in moves]
        faults = await row.spaces[moves[0].source].read(reads)
        for fault in faults:
            if fault is not None:
                log.warning("corrupt slot dropped: %s", fault)
        return ["source" if isinstance(fault, CorruptSlot) else None for fault in faults]

    async def _write(self, row: SpaceRow, moves: Sequence[Move]) -> None:
        target = moves[0].target
        if target in self._indexed and self._indexed[target].dropped:
            # Before a slot is written anew, no record says that it holds what it held.
            await self._commit(target, [])
        sequences = [next(self._sequences) for _ in moves]
        writes = [
            SlotWrite(m.target_slot, m.key, m.parent, sequence, row.entry.view(m.source_slot))
            for m, sequence in zip(moves, sequences, strict=True)
        ]
        await row.spaces[target].write(writes)
        if target not in self._indexed:
            return
        self._at_point("written")
        await row.spaces[target].sync()
        self._at_point("synced")
        added = [IndexRecord(w.key, w.parent, w.slot, w.sequence) for w in writes]
        await self._commit(target, [IndexChange(row.fingerprint, added, ())])
        self._at_point("recorded")

    async def _commit(self, tier: int, added: Sequence[IndexChange]) -> None:
        indexed = self._indexed[tier]
        async with self._committing:
            dropped, indexed.dropped = indexed.dropped, defaultdict(list)
            # Drops come first: a key that was dropped and is added again must stay.
            drops = [
                IndexChange(self._rows[n].fingerprint, (), keys) for n, keys in dropped.items()
            ]
            changes = [*drops, *added]
            if changes:
                await asyncio.to_thread(indexed.records.commit, changes)

    def _note(self, tier: int, error: TierOffline) -> None:
        self.causes[tier] = error.cause
        log.error("tier fault: %s", error)
