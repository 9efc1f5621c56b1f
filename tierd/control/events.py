"""What can happen to the store, and what it asks of the shell in return.

Events go into `Store.handle`, actions come out, in the order in which the shell must run them.
Times are monotonic nanoseconds; keys are in chain order, root first; `namespace` is the number
that `NamespaceOpened` gave. Keys that are `apart` are no chain: each is one of its own, and what
is said of a prefix is said of the leading keys that are held.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from tierd.core.errors import TierdError
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.notes import AgentState, BlockClass

STAGE_ALL: Final = 1 << 32
"""More blocks than any fetch has."""

# ---- events: from sessions


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A client said hello. `owner` is its process, if that maps our memory, else None."""

    session: int
    owner: int | None


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The client's stream ended, in whatever way."""

    session: int


@dataclass(frozen=True, slots=True)
class OwnerGone:
    """A process that mapped our memory is dead, or said that it let go."""

    owner: int


@dataclass(frozen=True, slots=True)
class OpenNamespace:
    session: int
    request: int
    name: str
    layout: LayoutSpec


@dataclass(frozen=True, slots=True)
class Match:
    """Say how much is held, and if `hold`, lease it: nothing is read or moved, but it stays.

    `count_missing`: count the rest as missed, since no fetch will ask for it.
    """

    session: int
    request: int
    namespace: int
    keys: Sequence[BlockKey]
    hold: bool = False
    apart: bool = False
    count_missing: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Lease the longest held prefix of `keys`.

    `wait_until_ns`: while the next block is being written by another, wait no longer than this.
    `reserve_part`: in the same step reserve what is missing, for that part; None: do not.
    `stage_blocks`: of the blocks that are in no mapped tier, how many, from the first, to bring
    to the entry tier at once. The others are the client's to read, or to `Stage`.
    `first`: blocks before this one the client has already; they are leased, and that is all.
    """

    session: int
    request: int
    namespace: int
    keys: Sequence[BlockKey]
    wait_until_ns: int
    reserve_part: int | None
    stage_blocks: int = STAGE_ALL
    first: int = 0
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Bring blocks `first` to `first + count - 1` of a lease to the entry tier.

    Answered by `Landed` alone.
    """

    session: int
    lease: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask for slots for the blocks of `keys` that nobody holds.

    `wait_until_ns`: while there is no slot at all, wait no longer than this.
    """

    session: int
    request: int
    namespace: int
    keys: Sequence[BlockKey]
    part: int
    wait_until_ns: int
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Seal:
    """The first `count` blocks of a reservation hold their bytes; the rest is given up.

    `request` 0 asks for no reply.
    """

    session: int
    request: int
    lease: int
    count: int


@dataclass(frozen=True, slots=True)
class Release:
    """The session is done with a lease of any kind. Unknown leases are fine."""

    session: int
    lease: int


@dataclass(frozen=True, slots=True)
class Renew:
    session: int
    request: int
    lease: int


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """The client could not read block `index` of a lease on its own route.

    `unanswered`: the medium did not answer it; otherwise the copy is corrupt.
    """

    session: int
    lease: int
    index: int
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class CopyCorrupt:
    """A slot was read for no client, and does not hold the block that it should."""

    key: BlockKey
    tier: int
    slot: int


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the held prefix of `keys` down now, and say when it is durable.

    `wait_until_ns`: answer then at the latest, with what is durable.
    """

    session: int
    request: int
    namespace: int
    keys: Sequence[BlockKey]
    wait_until_ns: int
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """Keep the held prefix of `keys` for `ttl_ns`, within the quota for pins."""

    session: int
    request: int
    namespace: int
    keys: Sequence[BlockKey]
    ttl_ns: int


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Bring the held prefix of `keys` to the entry tier."""

    namespace: int
    keys: Sequence[BlockKey]


@dataclass(frozen=True, slots=True)
class EndTurn:
    """The conversation pauses after `keys`: keep it warm, and write it down first.

    `classes` are what the leading blocks are. `state`: what is waited for, a tool or a person.
    `expected_ns`: how long that is expected to take, from now; 0: nobody knows. Shortly before,
    the chain is brought to the entry tier, unless its conversation goes on or ends, or the
    session does.
    """

    session: int
    namespace: int
    keys: Sequence[BlockKey]
    classes: Sequence[BlockClass] = ()
    state: AgentState = "turn_ended"
    expected_ns: int = 0


@dataclass(frozen=True, slots=True)
class EndSession:
    """The conversation is over. All but the first `shared` blocks of it may go first."""

    namespace: int
    keys: Sequence[BlockKey]
    shared: int


# ---- events: from the shell


class StoredCopy(NamedTuple):
    """A block that the index remembers. A tuple, since there may be a million."""

    key: BlockKey
    parent: BlockKey
    slot: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """A namespace that survived a restart, with its copies in `tier`, least recent first.

    What a tier that has become smaller has no room for is dropped, the most recent first: they
    hang on the others.
    """

    tier: int
    name: str
    layout: LayoutSpec
    region_slots: int
    copies: Iterable[StoredCopy]


@dataclass(frozen=True, slots=True)
class MoveDone:
    """A move ended. `fault`: None, or whose fault it is that the target holds nothing."""

    move: int
    fault: Literal["source", "target"] | None


@dataclass(frozen=True, slots=True)
class MovesDone:
    done: Sequence[MoveDone]


@dataclass(frozen=True, slots=True)
class MovesStalled:
    """Moves, by number, that have had no answer for so long that nobody is to wait for them.

    Their slots stay theirs: each still ends in a `MoveDone`, however late.
    """

    moves: Sequence[int]


@dataclass(frozen=True, slots=True)
class RegionReclaimed:
    """The medium has a region's bytes back."""

    namespace: int
    tier: int
    region: int


@dataclass(frozen=True, slots=True)
class TierFaulted:
    """A tier does not answer: nothing is planned on it from now on."""

    tier: int
    cause: str


@dataclass(frozen=True, slots=True)
class TierReadOnly:
    """A tier takes no writes, and answers reads: what it holds is served."""

    tier: int
    cause: str


@dataclass(frozen=True, slots=True)
class TierRecovered:
    """A tier that faulted can be read and written again, and holds what it held."""

    tier: int


@dataclass(frozen=True, slots=True)
class Touched:
    """A fetch was answered; what follows from it can be done now. From `Defer` only."""

    namespace: int
    keys: Sequence[BlockKey]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, or the process has nothing better to do."""


Event = (
    OpenSession
    | CloseSession
    | OwnerGone
    | OpenNamespace
    | Match
    | Fetch
    | Stage
    | Reserve
    | Seal
    | Release
    | Renew
    | ReadFailed
    | CopyCorrupt
    | Persist
    | Pin
    | Prefetch
    | EndTurn
    | EndSession
    | Recovered
    | MovesDone
    | MovesStalled
    | RegionReclaimed
    | TierFaulted
    | TierReadOnly
    | TierRecovered
    | Touched
    | Tick
)

# ---- replies


@dataclass(frozen=True, slots=True)
class Run:
    """`count` blocks of a chain, one after another in the slots of one tier.

    `pending`: they are on their way to the entry tier; `Landed` tells when they are there, and in
    which slots.
    """

    tier: int
    slot: int
    count: int
    pending: bool


@dataclass(frozen=True, slots=True)
class NamespaceOpened:
    namespace: int
    layout: LayoutSpec


@dataclass(frozen=True, slots=True)
class Matched:
    """How many blocks are held from the root on, and of these how many best in each tier.

    `lease` is 0 if none was asked for, or nothing is held; it holds for `term_ns`. Of keys apart
    `further` are the indices of those held behind the first that is not: they are not leased.
    """

    blocks: int
    by_tier: tuple[int, ...]
    lease: int = 0
    term_ns: int = 0
    further: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Slots `slot` to `slot + count - 1` of the entry tier for `keys[index : index + count]`."""

    index: int
    slot: int
    count: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """Slots for those keys that nobody holds, in chain order; `lease` 0 if there are none.

    `declined` blocks had no slot. Keys without a grant are held, or written by another.
    """

    lease: int
    grants: tuple[Grant, ...]
    declined: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A leased prefix of `blocks` blocks; `lease` 0 if there are none after the `first`.

    `runs` are in chain order and begin with block `first`.
    `queued_bytes` were on their way to the entry tier before this request. The lease holds for
    `term_ns`.
    """

    lease: int
    fence: int
    blocks: int
    runs: tuple[Run, ...]
    reserved: Reserved | None
    queued_bytes: int = 0
    term_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sealed:
    """`blocks` blocks became part of the catalog, or will when the other parts are sealed."""

    blocks: int


@dataclass(frozen=True, slots=True)
class Renewed:
    expires_ns: int


@dataclass(frozen=True, slots=True)
class Persisted:
    """The first `blocks` blocks of the chain are durable."""

    blocks: int


@dataclass(frozen=True, slots=True)
class Pinned:
    blocks: int


ReplyBody = (
    NamespaceOpened
    | Matched
    | Reserved
    | Fetched
    | Sealed
    | Renewed
    | Persisted
    | Pinned
    | TierdError
)

# ---- actions


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request of a session."""

    session: int
    request: int
    body: ReplyBody


@dataclass(frozen=True, slots=True)
class Landed:
    """Tell a session which blocks of a lease are in slots of the entry tier now, or will not be.

    `slots` are those of `indices`. `failed` could not be read; for `declined` there was no slot.
    """

    session: int
    lease: int
    indices: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    declined: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SetFence:
    """Write `lease` into a session's fence table: while it is there, the leased bytes stay."""

    session: int
    fence: int
    lease: int


MoveClass = Literal["demand", "prefetch", "promotion", "write_back"]


@dataclass(frozen=True, slots=True)
class Move:
    """One block over one route: from a slot of `source` to a slot of `target`."""

    move: int
    namespace: int
    key: BlockKey
    parent: BlockKey
    source: int
    source_slot: int
    target: int
    target_slot: int


@dataclass(frozen=True, slots=True)
class StartMoves:
    """Run moves that share source, target and namespace; report each by `MoveDone`."""

    urgency: MoveClass
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Urge:
    """Somebody waits for these moves, by number, now: they are of class demand from now on."""

    moves: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrepareRegion:
    """A region was lent: make it ready in the background."""

    namespace: int
    tier: int
    region: int


@dataclass(frozen=True, slots=True)
class ReclaimRegion:
    """A region is empty: give its bytes back, then report `RegionReclaimed`."""

    namespace: int
    tier: int
    region: int


@dataclass(frozen=True, slots=True)
class DropRecords:
    """Copies in `tier` are gone: forget them in the index, together with the next batch."""

    namespace: int
    tier: int
    keys: tuple[BlockKey, ...]


@dataclass(frozen=True, slots=True)
class Defer:
    """Feed `event` back when the actions of this call have been run."""

    event: Event


Action = (
    Reply
    | Landed
    | SetFence
    | StartMoves
    | Urge
    | PrepareRegion
    | ReclaimRegion
    | DropRecords
    | Defer
)


@dataclass(slots=True)
class Outbox:
    """Where the parts of the store leave their actions during one `handle`."""

    actions: list[Action] = field(default_factory=list)

    def add(self, action: Action) -> None:
        self.actions.append(action)

    def drain(self) -> list[Action]:
        drained, self.actions = self.actions, []
        return drained
