"""The daemon on the clock: the real store, with media that take time in place of tiers.

It does what the shell and the mover of the service do, in the same order: one event at a time,
its actions in order, moves in pieces of the same sizes through lanes of the same rules. Nothing
fails here, and no bytes exist.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from tierd.control import events as ev
from tierd.control.config import Limits, StoreConfig, TierConfig
from tierd.control.policies import Policies
from tierd.control.store import Store
from tierd.core.layouts import LayoutSpec
from tierd.core.units import NS_PER_MS, NS_PER_S, PAGE_BYTES, MiB
from tierd_bench.replay.embedded import EmbeddedSizes
from tierd_bench.simulate.media import Lanes, Medium, MediumSpec, Piece
from tierd_bench.simulate.timed_clock import Clock, Process, Resume, Servers, start
from tierd_bench.simulate.timed_index import SimulatedIndex

_READ_PIECE_BYTES: Final = 8 * MiB
_SMALL_PIECE_BYTES: Final = 2 * MiB
_SESSION: Final = 1
_OWNER: Final = 1
_FLUSH_NS: Final = NS_PER_S
"""How often records of what was evicted are dropped while nothing is written."""

_RELEASE_NS: Final = 5 * NS_PER_MS
"""How long the end of a lease waits for a message to ride on."""

_LIMITS: Final = Limits(leases_per_session_max=4096, waiting_max=1024, slots_per_publish_max=8192)
"""The defaults of the daemon's own settings, which are not those of the store."""

_READ_LEASE_NS: Final = 30 * NS_PER_S
_WRITE_LEASE_NS: Final = 60 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Machine:
    """The media, by tier, and what a request costs besides moving bytes.

    `message_s` is how long a message takes one way, `daemon_s` what one takes of the daemon's
    only thread, and `client_s` what a request takes of the client's process, whose users are
    threads that take turns. Units: seconds.
    """

    media: dict[str, MediumSpec]
    message_s: float = 50e-6
    daemon_s: float = 100e-6
    client_s: float = 300e-6


@dataclass(slots=True)
class Traffic:
    """What the daemon has moved. By route (source, target), in bytes; written bytes by tier.

    `medium_bytes` has what the payload needs beside it too: a header page a block, and records.
    """

    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    payload_bytes: Counter[str] = field(default_factory=Counter)
    medium_bytes: Counter[str] = field(default_factory=Counter)


def store_config(
    sizes: EmbeddedSizes, layout: LayoutSpec, policies: Policies, write_bytes_per_day: int = 0
) -> StoreConfig:
    """Return what a daemon of these sizes tells its store, as `tierd serve` does by default."""
    given = [("device", sizes.device), ("host", sizes.host), ("disk", sizes.disk)]
    tiers = [(name, size) for name, size in given if size]
    entry = [name for name, _ in tiers].index("host")
    return StoreConfig(
        tiers=tuple(
            TierConfig(
                name,
                size,
                sizes.region_bytes(layout),
                mapped=index <= entry,
                header_bytes=PAGE_BYTES if name == "disk" else 0,
                write_bytes_per_day=write_bytes_per_day if name == "disk" else 0,
            )
            for index, (name, size) in enumerate(tiers)
        ),
        entry=entry,
        policies=policies,
        limits=_LIMITS,
        read_lease_ns=_READ_LEASE_NS,
        write_lease_ns=_WRITE_LEASE_NS,
    )


class SimulatedDaemon:
    """One store, its media, and one client process that is connected to it."""

    def __init__(
        self, clock: Clock, config: StoreConfig, machine: Machine, layout: LayoutSpec
    ) -> None:
        self.clock = clock
        self.store = Store(config)
        self.layout = layout
        self.names = [tier.name for tier in config.tiers]
        self.entry = config.entry
        self.media = [Medium(clock, machine.media[name]) for name in self.names]
        self.traffic = Traffic()
        self._lanes = [Lanes(clock, medium) for medium in self.media]
        self._message_ns = int(machine.message_s * NS_PER_S)
        self._daemon_ns = int(machine.daemon_s * NS_PER_S)
        self._daemon_free_ns = 0
        self._queue: deque[ev.Event] = deque()
        self._feeding = False
        self._wakeup_ns: int | None = None
        self._answers: dict[int, Resume] = {}
        self._landed: dict[int, Callable[[ev.Landed], None]] = {}
        self._released: list[int] = []
        self._requests = 0
        self._index = SimulatedIndex()
        self._committing = Servers(clock, 1)
        self._actions: dict[type, Callable[[Any], None]] = {
            ev.Reply: self._reply,
            ev.Landed: self._tell_landed,
            ev.StartMoves: self._start_moves,
            ev.Urge: self._urge,
            ev.Defer: lambda action: clock.after(0, self.feed, action.event),
            ev.ReclaimRegion: self._reclaim,
            ev.DropRecords: self._drop_records,
        }
        self.feed(ev.OpenSession(_SESSION, _OWNER))
        self.feed(ev.OpenNamespace(_SESSION, 0, "simulated", layout))
        self.region_slots = [space.region_slots for space in self.store.room.spaces[0]]

    # ---- the client's side

    def ask(self, make: Callable[[int, int, int], ev.Event]) -> Callable[[Resume], None]:
        """Return a wait for the answer to a request, made of (session, number, time it arrives).

        Leases that have ended ride along.
        """

        def begin(resume: Resume) -> None:
            self._requests += 1
            number = self._requests
            self._answers[number] = resume
            arrival_ns = self.clock.now_ns + self._message_ns
            self._send(make(_SESSION, number, arrival_ns))

        return begin

    def tell(self, make: Callable[[int], ev.Event]) -> None:
        """Send what is not answered."""
        self._send(make(_SESSION))

    def release(self, lease: int) -> None:
        """End a lease: with the next message, or alone if none follows soon."""
        self._released.append(lease)
        if len(self._released) == 1:
            self.clock.after(_RELEASE_NS, self._send_releases)

    def on_landed(self, lease: int, heard: Callable[[ev.Landed], None] | None) -> None:
        """Have `heard` called with what lands for a lease; None: no more."""
        if heard is None:
            self._landed.pop(lease, None)
        else:
            self._landed[lease] = heard

    def _send(self, event: ev.Event) -> None:
        self._send_releases()
        self.clock.after(self._message_ns, self._arrive, event)

    def _arrive(self, event: ev.Event) -> None:
        """Have the daemon take a message when it is done with those before."""
        self._daemon_free_ns = max(self._daemon_free_ns, self.clock.now_ns) + self._daemon_ns
        self.clock.at(self._daemon_free_ns, self.feed, event)

    def _send_releases(self, _: object = None) -> None:
        for lease in self._released:
            self.clock.after(self._message_ns, self._arrive, ev.Release(_SESSION, lease))
        self._released.clear()

    # ---- the daemon's side

    def feed(self, event: ev.Event) -> None:
        """Let the store handle an event, and run what follows from it, now."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        while self._queue:
            for action in self.store.handle(self._queue.popleft(), self.clock.now_ns):
                run = self._actions.get(type(action))
                if run is not None:
                    run(action)
        self._feeding = False
        self._plan_wakeup()

    def _plan_wakeup(self) -> None:
        when_ns = self.store.next_wakeup_ns()
        if when_ns is not None and (self._wakeup_ns is None or when_ns < self._wakeup_ns):
            self._wakeup_ns = when_ns
            self.clock.at(when_ns, self._wake_up, when_ns)

    def _wake_up(self, planned_ns: int) -> None:
        if planned_ns == self._wakeup_ns:
            self._wakeup_ns = None
            self.feed(ev.Tick())

    def _reply(self, action: ev.Reply) -> None:
        body = action.body
        if isinstance(body, ev.Fetched):
            for run in body.runs:
                if run.tier > self.entry and not run.pending:
                    self._lanes[run.tier].expect_demand()
        resume = self._answers.pop(action.request, None)
        if resume is not None:
            self.clock.after(self._message_ns, resume, body)

    def _tell_landed(self, action: ev.Landed) -> None:
        self.clock.after(self._message_ns, self._hear, action)

    def _hear(self, action: ev.Landed) -> None:
        heard = self._landed.get(action.lease)
        if heard is not None:
            heard(action)

    def _reclaim(self, action: ev.ReclaimRegion) -> None:
        back = ev.RegionReclaimed(action.namespace, action.tier, action.region)
        self.clock.after(0, self.feed, back)

    # ---- moves

    def _start_moves(self, action: ev.StartMoves) -> None:
        moves = action.moves
        if moves[0].target == self.entry:
            size = _READ_PIECE_BYTES if action.urgency == "demand" else _SMALL_PIECE_BYTES
            for part in self._parts(moves, size):
                self._read(part, action.urgency)
        else:
            start(self._write(moves, action.urgency))

    def _urge(self, action: ev.Urge) -> None:
        moves = frozenset(action.moves)
        for lanes in self._lanes:
            lanes.urge(moves)

    def _read(self, moves: Sequence[ev.Move], urgency: ev.MoveClass) -> None:
        size = len(moves) * self.layout.block_bytes
        numbers = tuple(move.move for move in moves)
        piece = Piece(urgency, "read", size, lambda _: self._moved(moves), numbers)
        self._lanes[moves[0].source].enter(piece)

    def _write(self, moves: Sequence[ev.Move], urgency: ev.MoveClass) -> Process[None]:
        """Write all of a batch, make it durable, record it, and only then say so."""
        target = moves[0].target
        name, indexed = self.names[target], target > self.entry
        if indexed:
            yield from self._commit(target, 0)  # No record is to say what slots no longer hold.
        yield partial(self._write_parts, moves, urgency)
        if indexed:
            yield self.clock.pause(self._sync_ns(target))
            yield from self._commit(target, len(moves))
        self.traffic.payload_bytes[name] += len(moves) * self.layout.shards * self.layout.part_bytes
        self._moved(moves)

    def _write_parts(self, moves: Sequence[ev.Move], urgency: ev.MoveClass, resume: Resume) -> None:
        target = moves[0].target
        slot_bytes = self.layout.block_bytes + self.store.config.tiers[target].header_bytes
        parts = list(self._parts(moves, _SMALL_PIECE_BYTES))
        left = len(parts)

        def ended(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                resume(None)

        for part in parts:
            size = len(part) * slot_bytes
            self.traffic.medium_bytes[self.names[target]] += size
            self._lanes[target].enter(Piece(urgency, "write", size, ended))

    def _drop_records(self, action: ev.DropRecords) -> None:
        if not self._index.dropped:
            flush = partial(self._commit, action.tier, 0)
            self.clock.after(_FLUSH_NS, lambda _: start(flush()))
        self._index.dropped += len(action.keys)

    def _commit(self, tier: int, added: int) -> Process[None]:
        """Write records; one commit at a time, which is durable at its end."""
        yield self._committing.take
        size = self._index.commit(added)
        if size:
            self.traffic.medium_bytes[self.names[tier]] += size
            yield self.clock.pause(self._sync_ns(tier))
        self._committing.give()

    def _sync_ns(self, tier: int) -> int:
        return int(self.media[tier].spec.sync_s * NS_PER_S)

    def _moved(self, moves: Sequence[ev.Move]) -> None:
        ends = self.names[moves[0].source], self.names[moves[0].target]
        self.traffic.moved[ends] += len(moves) * self.layout.block_bytes
        self.feed(ev.MovesDone([ev.MoveDone(move.move, None) for move in moves]))

    def _parts(self, moves: Sequence[ev.Move], size: int) -> Iterator[Sequence[ev.Move]]:
        step = max(1, size // self.layout.block_bytes)
        return (moves[first : first + step] for first in range(0, len(moves), step))
