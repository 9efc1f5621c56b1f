"""Moves take time, end piece by piece, and fail as their mediums do."""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from tests.simulation.mediums import DISK, HOST, LAYOUTS, Mediums, Place
from tierd.control import events as ev
from tierd.core.keys import BlockKey

STALL_NS = 20
"""How long a move may take before nobody is to wait for it."""


class Mover:
    """Copies bytes from medium to medium: half way through, the target holds nothing of use.

    `stalled` is told of a tier that does not answer. Its moves end all the same, much later, when
    their bytes go where they were to go. `records` are what the index of the disk says: the slot
    of each block, by namespace and key.
    """

    def __init__(
        self,
        rng: Random,
        mediums: Mediums,
        after: Callable[[int, Callable[[], None]], None],
        feed: Callable[[ev.Event], None],
        stalled: Callable[[int], None],
    ) -> None:
        self._rng = rng
        self._mediums = mediums
        self._after = after
        self._feed = feed
        self._stalled = stalled
        self.records: dict[tuple[int, BlockKey], int] = {}
        self._targets: set[Place] = set()

    def start(self, moves: Sequence[ev.Move]) -> None:
        """Run moves of one route in pieces, each with an end of its own."""
        first = 0
        while first < len(moves):
            piece = moves[first : first + self._rng.randint(1, 4)]
            first += len(piece)
            latency_ns = self._rng.choice([1, 2, 5, 15]) * (2 if piece[0].source == DISK else 1)
            if self._rng.random() < self._mediums.faults.stalled:
                latency_ns = self._rng.choice([50, 200])
                self._after(STALL_NS, partial(self._give_up, piece))
            for move in piece:
                target = _target(move)
                assert target not in self._targets, ("two moves to a slot", move)
                self._targets.add(target)
                self._check_unrecorded(move)
                self._mediums.tear(target, LAYOUTS[move.namespace].shards)
            self._after(self._rng.randint(0, latency_ns), partial(self._read, piece, latency_ns))

    def drop_records(self, namespace: int, keys: Sequence[BlockKey]) -> None:
        """Forget where blocks are on disk."""
        for key in keys:
            del self.records[namespace, key]

    def check_durable(self, namespace: int, keys: Sequence[BlockKey]) -> None:
        """Each of `keys` was written, synced and recorded, and is still."""
        for key in keys:
            assert (namespace, key) in self.records, ("said to be durable", namespace, key)

    def _check_unrecorded(self, move: ev.Move) -> None:
        for (namespace, key), slot in self.records.items():
            place = (DISK, namespace, slot)
            assert place != _target(move), ("law 6: a record of what is overwritten", key, move)

    def _read(self, piece: Sequence[ev.Move], latency_ns: int) -> None:
        found = [
            self._mediums.verified((move.source, move.namespace, move.source_slot), move.key)
            for move in piece
        ]
        self._after(self._rng.randint(0, latency_ns), partial(self._end, piece, found))

    def _give_up(self, piece: Sequence[ev.Move]) -> None:
        """Say of a piece that it has had no answer, unless it has."""
        if _target(piece[0]) in self._targets:
            self._feed(ev.MovesStalled([move.move for move in piece]))
            self._stalled(piece[0].source if piece[0].target == HOST else piece[0].target)

    def _end(self, piece: Sequence[ev.Move], found: Sequence[tuple[bytes, ...] | None]) -> None:
        refused = self._is_refused(piece[0])
        done = []
        for move, parts in zip(piece, found, strict=True):
            self._targets.remove(_target(move))
            if refused:
                done.append(ev.MoveDone(move.move, "target"))
            elif parts is None:
                done.append(ev.MoveDone(move.move, "source"))
            else:
                self._mediums.store(_target(move), move.key, parts)
                if move.target == DISK:
                    self.records[move.namespace, move.key] = move.target_slot
                done.append(ev.MoveDone(move.move, None))
        self._feed(ev.MovesDone(done))

    def _is_refused(self, move: ev.Move) -> bool:
        faults = self._mediums.faults
        refused = move.target != HOST and self._rng.random() < faults.refused + faults.full
        read_only = move.target in self._mediums.read_only
        return refused or read_only or bool({move.source, move.target} & self._mediums.offline)


def _target(move: ev.Move) -> Place:
    return (move.target, move.namespace, move.target_slot)
