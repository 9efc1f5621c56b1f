"""Media that take time: bandwidth, latency, queue depth, and who goes first.

A medium is one pipe: bytes of reads and writes go through it one after another at the rate of
their kind, and each operation ends a latency after its last byte. No more than `depth` operations
are on it at once, so small ones are held back by the latency and large ones by the rate.

`Lanes` is who goes first, by the rules of the daemon's mover (`tierd/transfer/lanes.py`): demand
first, the classes below it keep an eighth.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from tierd.control.events import MoveClass
from tierd.core.units import NS_PER_MS, NS_PER_S, GiB, MiB
from tierd_bench.simulate.timed_clock import Clock, Resume, Wait

Access = Literal["read", "write"]

_TURN_BYTES: Final = 16 * MiB
"""Of several who copy at once each has its turn of so many bytes."""


@dataclass(frozen=True, slots=True)
class MediumSpec:
    """What a medium reaches, all devices of a tier together.

    Units: bytes a second, seconds. `sync_s` is what making writes durable takes: twice a batch,
    for the data and for its records.
    """

    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float
    depth: int = 64
    sync_s: float = 0.0


DEVICE: Final = MediumSpec(50 * GiB, 50 * GiB, 10e-6)
"""GPU memory at the far end of a PCIe 5 link of 16 lanes."""

HOST: Final = MediumSpec(20 * GiB, 10 * GiB, 2e-6)
"""Host memory, as copies out of and into shared memory reach it."""

DISK: Final = MediumSpec(6 * GiB, 4 * GiB, 100e-6, depth=64, sync_s=0.3e-3)
"""One PCIe 4 NVMe device for data centres."""


class Medium:
    """One medium on the clock."""

    def __init__(self, clock: Clock, spec: MediumSpec) -> None:
        self._clock = clock
        self.spec = spec
        self._rates: dict[Access, float] = {
            "read": spec.read_bytes_per_s,
            "write": spec.write_bytes_per_s,
        }
        self._latency_ns = int(spec.latency_s * NS_PER_S)
        self._free_ns = 0
        self._on_it = 0
        self._queue: deque[tuple[Access, int, Resume]] = deque()
        self.busy_ns = 0

    def move(self, access: Access, size: int) -> Wait:
        """Return a wait for one operation of `size` bytes."""
        return lambda resume: self.begin(access, size, resume)

    def begin(self, access: Access, size: int, done: Resume) -> None:
        """Begin one operation, as soon as the depth allows; `done` is called at its end."""
        if self._on_it == self.spec.depth:
            self._queue.append((access, size, done))
            return
        self._on_it += 1
        needed_ns = int(size / self._rates[access] * NS_PER_S)
        self.busy_ns += needed_ns
        self._free_ns = max(self._clock.now_ns, self._free_ns) + needed_ns
        self._clock.at(self._free_ns + self._latency_ns, self._end, done)

    def turns(self, access: Access, size: int) -> "Turns":
        """Return the operations of a copy of `size` bytes that takes turns with others."""
        return Turns(self, access, size)

    def _end(self, done: Resume) -> None:
        self._on_it -= 1
        if self._queue:
            self.begin(*self._queue.popleft())
        done(None)


@dataclass(frozen=True, slots=True)
class Turns:
    """A wait for a copy, whose bytes go in turns with those of others."""

    medium: Medium
    access: Access
    size: int

    def __call__(self, resume: Resume) -> None:
        left = self.size

        def turn(_: object) -> None:
            nonlocal left
            if not left:
                resume(None)
                return
            size = min(left, _TURN_BYTES)
            left -= size
            self.medium.begin(self.access, size, turn)

        turn(None)


# ---- who goes first

_IN_FLIGHT_BYTES_MAX: Final = 32 * MiB
_LOWER_BYTES_MAX: Final = 8 * MiB
_SHARE: Final = 8
_QUIET_NS: Final = 50 * NS_PER_MS
_IDLE_NS: Final = 1000 * NS_PER_MS
_CLASSES: Final[tuple[MoveClass, ...]] = ("demand", "prefetch", "promotion", "write_back")


@dataclass(slots=True, eq=False)
class Piece:
    """One operation of the mover; `moves` are its numbers."""

    urgency: MoveClass
    access: Access
    size: int
    done: Resume
    moves: tuple[int, ...] = ()


@dataclass(slots=True)
class Lanes:
    """The mover's queues before one medium: few bytes are handed over at once."""

    clock: Clock
    medium: Medium
    waiting: dict[MoveClass, deque[Piece]] = field(
        default_factory=lambda: {name: deque() for name in _CLASSES}
    )
    in_flight: dict[MoveClass, int] = field(default_factory=lambda: dict.fromkeys(_CLASSES, 0))
    owed: int = 0
    quiet_from_ns: int = -_IDLE_NS

    def enter(self, piece: Piece) -> None:
        """Queue a piece."""
        self.waiting[piece.urgency].append(piece)
        self._grant()

    def urge(self, moves: frozenset[int]) -> None:
        """Make pieces demand that have one of `moves`: somebody waits for them now."""
        for name in _CLASSES[1:]:
            for piece in [p for p in self.waiting[name] if not moves.isdisjoint(p.moves)]:
                self.waiting[name].remove(piece)
                piece.urgency = "demand"
                self.waiting["demand"].append(piece)
        self._grant()

    def expect_demand(self) -> None:
        """Keep the way clear: a client is about to read by itself."""
        self.quiet_from_ns = self.clock.now_ns + _QUIET_NS

    def _grant(self) -> None:
        while (piece := self._next()) is not None:
            total = sum(self.in_flight.values())
            if total and total + piece.size > _IN_FLIGHT_BYTES_MAX:
                return
            self.waiting[piece.urgency].popleft()
            self.in_flight[piece.urgency] += piece.size
            waits_below = any(self.waiting[name] for name in _CLASSES[1:])
            if piece.urgency == "demand":
                self.owed = self.owed + piece.size if waits_below else 0
            else:
                self.owed = 0
            self.medium.begin(piece.access, piece.size, partial(self._leave, piece))

    def _leave(self, piece: Piece, _: object) -> None:
        self.in_flight[piece.urgency] -= piece.size
        if piece.urgency == "demand":
            self.quiet_from_ns = self.clock.now_ns + _QUIET_NS
        self._grant()
        piece.done(None)

    def _next(self) -> Piece | None:
        """Return what goes next, whether or not there is room for it now."""
        lower = next((self.waiting[n][0] for n in _CLASSES[1:] if self.waiting[n]), None)
        busy = sum(self.in_flight[name] for name in _CLASSES[1:])
        urgent = self.waiting["demand"]
        if urgent or self.in_flight["demand"]:
            if lower is not None and not busy and self.owed >= (_SHARE - 1) * lower.size:
                return lower
            return urgent[0] if urgent else None
        if lower is None or not busy:
            return lower
        quiet_ns = self.clock.now_ns - self.quiet_from_ns
        most = _IN_FLIGHT_BYTES_MAX if quiet_ns >= _IDLE_NS else _LOWER_BYTES_MAX
        return lower if quiet_ns >= 0 and busy + lower.size <= most else None
