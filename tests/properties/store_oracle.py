"""What a shell, its clients and its mediums make of a store's actions: the oracle of test_store.

It believes the store in nothing. It keeps which block's bytes are in each slot, from grants,
seals and moves alone, and who may still read or write there. Every write that an action allows
is checked against those, every run that a reply promises against the bytes.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from tierd.control import events as ev
from tierd.control import laws
from tierd.control.store import Store
from tierd.core.errors import LeaseExpired
from tierd.core.keys import BlockKey

Place = tuple[int, int, int]
"""Tier, namespace, slot."""

Request = ev.OpenNamespace | ev.Match | ev.Fetch | ev.Reserve | ev.Seal | ev.Renew | ev.Pin


@dataclass(eq=False)
class Content:
    """What is written to a slot. `writers` are the leases that may still write to it.

    What is `spoiled` was found not to be what was written, and is promised to nobody any more.
    """

    key: BlockKey
    parts_missing: set[int] = field(default_factory=set)
    granted: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)
    aborted: bool = False
    last_seal_ns: int = 0
    spoiled: bool = False


@dataclass(eq=False)
class Reader:
    """What a client may read under a lease: blocks by index."""

    blocks: dict[int, tuple[Place, BlockKey]]
    pending: set[int]


@dataclass(eq=False)
class Writer:
    part: int
    contents: list[tuple[Place, Content]]


@dataclass(eq=False)
class Client:
    """A session and its process. A client whose owner is None cannot touch our memory."""

    number: int
    owner: int | None
    fences: dict[int, int] = field(default_factory=dict)
    closed: bool = False
    dead: bool = False


class Oracle:
    """Drives a store, and judges all it says."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entry = store.config.entry
        self.now_ns = 0
        self.clients: dict[int, Client] = {}
        self.readers: dict[int, Reader] = {}
        self.writers: dict[int, Writer] = {}
        self.session_of: dict[int, int] = {}
        self.contents: dict[Place, Content] = {}
        self.sealed: set[tuple[int, BlockKey]] = set()
        self.parents: dict[tuple[int, BlockKey], set[BlockKey | None]] = defaultdict(set)
        self.moves: dict[int, ev.Move] = {}
        self.regions: set[Place] = set()
        self.returning: set[Place] = set()
        self.refusing: set[int] = set()
        self.records: dict[tuple[int, int], dict[BlockKey, int]] = defaultdict(dict)
        self._sealing: Writer | None = None
        self._abandoned: set[int] = set()
        self.asked: dict[int, Request] = {}
        self.replies: dict[int, ev.ReplyBody] = {}

    # ---- events

    def feed(self, event: ev.Event) -> None:
        """Let the store handle an event, and all that it defers; judge what comes of it."""
        if isinstance(event, Request) and event.request:
            assert event.request not in self.asked
            self.asked[event.request] = event
        actions = self.store.handle(event, self.now_ns)
        laws.check(self.store)
        for action in actions:
            if not isinstance(action, ev.Defer):
                self._judge(action)
        self._check_pending_runs()
        for action in actions:
            if isinstance(action, ev.Defer):
                self.feed(action.event)
        self._check_waiting()

    def ask(self, event: Request) -> ev.ReplyBody | None:
        self.feed(event)
        return self.replies.get(event.request)

    def open_session(self, number: int, owner: int | None) -> None:
        self.clients[number] = Client(number, owner)
        self.feed(ev.OpenSession(number, owner))

    def close_session(self, number: int) -> None:
        client = self.clients[number]
        client.closed = True
        if client.owner is None:
            self._stop_all(client)
        self._abandoned = {r for r, event in self.asked.items() if event.session == number}
        self.feed(ev.CloseSession(number))
        assert all(self.session_of[lease] != number for lease in self.readers), "fences stand"

    def owner_gone(self, owner: int) -> None:
        for client in self.clients.values():
            if client.owner == owner:
                client.dead = True
                self._stop_all(client)
        self.feed(ev.OwnerGone(owner))

    def seal(self, request: int, lease: int, count: int) -> None:
        self.readers.pop(lease, None)
        writer = self.writers.pop(lease)
        for at, (_, content) in enumerate(writer.contents):
            content.writers.discard(lease)
            content.aborted |= at >= count
        self._sealing = Writer(writer.part, writer.contents[:count])
        reply = self.ask(ev.Seal(self.session_of[lease], request, lease, count))
        kept = [content for _, content in self._sealing.contents]
        if isinstance(reply, LeaseExpired):
            for content in kept:
                content.aborted = True
        else:
            assert reply == ev.Sealed(sum(not content.aborted for content in kept))
        self._sealing = None

    def release(self, lease: int) -> None:
        self._stop(lease)
        self.feed(ev.Release(self.session_of[lease], lease))

    def read_failed(self, lease: int, index: int) -> None:
        place, key = self.readers[lease].blocks[index]
        self._lose(place[1], key)
        self.feed(ev.ReadFailed(self.session_of[lease], lease, index))

    def sealed_places(self) -> list[Place]:
        """Return the slots that hold, or held, whole blocks."""
        return [
            place
            for place, content in self.contents.items()
            if not (content.parts_missing or content.aborted or content.writers)
        ]

    def copy_corrupt(self, place: Place) -> None:
        """A slot is found not to hold what was written there, by one who serves no client."""
        content = self.contents[place]
        # While the block is on its way somewhere its copies stay; the next look finds it again.
        if all(move.key != content.key for move in self.moves.values()):
            content.spoiled = True
            if not self.store.config.tiers[place[0]].mapped:
                self._stop_reading(place)
        self.feed(ev.CopyCorrupt(content.key, place[0], place[2]))

    def copy_corrupt_before(self, key: BlockKey, place: Place) -> None:
        """A slot was found wrong, but by now it is another's: nothing follows from that."""
        self.feed(ev.Tick())  # What is due at this time anyhow is over with.
        before = self._copies()
        self.feed(ev.CopyCorrupt(key, place[0], place[2]))
        assert self._copies() == before, ("a good copy was given up", key, place)

    def stage(self, lease: int, first: int, count: int) -> None:
        """Ask for blocks of a live lease; each is landed, failed or declined, now or later."""
        reader = self.readers[lease]
        reader.pending |= reader.blocks.keys() & set(range(first, first + count))
        self.feed(ev.Stage(self.session_of[lease], lease, first, count))

    def end_moves(self, ends: list[tuple[int, Literal["source", "target"] | None]]) -> None:
        for number, fault in ends:
            move = self.moves.pop(number)
            target = (move.target, move.namespace, move.target_slot)
            if fault is None:
                self.contents[target] = Content(move.key)
                if not self.store.config.tiers[move.target].mapped:
                    self.records[move.target, move.namespace][move.key] = move.target_slot
            elif fault == "source":
                self._lose(move.namespace, move.key)
        self.feed(ev.MovesDone([ev.MoveDone(number, fault) for number, fault in ends]))
        self._check_pending_runs()

    def reclaim(self, place: Place) -> None:
        self.returning.remove(place)
        tier, namespace, region = place
        self.feed(ev.RegionReclaimed(namespace, tier, region))

    # ---- actions

    def _judge(self, action: ev.Action) -> None:
        match action:
            case ev.Reply():
                self._judge_reply(action)
            case ev.SetFence():
                self._judge_fence(action)
            case ev.StartMoves():
                for move in action.moves:
                    self._judge_move(move)
            case ev.Landed():
                self._judge_landed(action)
            case ev.Urge(moves):
                assert all(self.moves[number].target == self.entry for number in moves)
            case ev.PrepareRegion(namespace, tier, region):
                assert (tier, namespace, region) not in self.regions | self.returning
                self.regions.add((tier, namespace, region))
            case ev.ReclaimRegion(namespace, tier, region):
                self._judge_reclaim(tier, namespace, region)
            case ev.DropRecords(namespace, tier, keys):
                for key in keys:
                    slot = self.records[tier, namespace].pop(key)
                    self._check_unused((tier, namespace, slot))
            case _:
                raise AssertionError(action)

    def _judge_reply(self, reply: ev.Reply) -> None:
        event = self.asked.pop(reply.request, None)
        assert event is not None, ("a reply to nothing, or a second one", reply)
        assert event.session == reply.session
        self.replies[reply.request] = reply.body
        if isinstance(reply.body, ev.Sealed):
            self._note_seal()
        elif isinstance(reply.body, ev.Reserved):
            assert isinstance(event, ev.Reserve)
            self._note_grants(event, reply.body, event.part)
        elif isinstance(reply.body, ev.Fetched):
            assert isinstance(event, ev.Fetch)
            self._note_fetched(event, reply.body)
        elif isinstance(reply.body, ev.Matched):
            assert isinstance(event, ev.Match)
            self._note_matched(event, reply.body)

    def _note_matched(self, event: ev.Match, body: ev.Matched) -> None:
        assert event.apart or not body.further
        assert all(index >= body.blocks for index in body.further)
        for index in (*range(body.blocks), *body.further):
            self._check_found(event, index)
        if body.lease:
            assert event.hold
            self.readers[body.lease] = Reader({}, set())
            self.session_of[body.lease] = event.session

    def _check_found(self, event: ev.Match | ev.Fetch, index: int) -> None:
        """A block was sealed, and is found as it was published: behind its parent, or apart."""
        key = event.keys[index]
        assert (event.namespace, key) in self.sealed
        assert _parent(event, index) in self.parents[event.namespace, key]

    def _note_fetched(self, event: ev.Fetch, body: ev.Fetched) -> None:
        blocks: dict[int, tuple[Place, BlockKey]] = {}
        pending = set()
        for run in body.runs:
            for slot in range(run.slot, run.slot + run.count):
                index = event.first + len(blocks)
                place = (run.tier, event.namespace, slot)
                blocks[index] = (place, event.keys[index])
                self._check_found(event, index)
                self._check_holds(place, event.keys[index])
                if run.pending:
                    assert run.tier > self.entry
                    pending.add(index)
        assert len(blocks) == max(0, body.blocks - event.first)
        assert len(set(event.keys[: body.blocks])) == body.blocks
        assert bool(blocks) == bool(body.lease)
        if body.lease:
            assert self.clients[event.session].fences[body.fence] == body.lease
            self.readers[body.lease] = Reader(blocks, pending)
            self.session_of[body.lease] = event.session
        if event.reserve_part is None:
            assert body.reserved is None
        else:
            assert body.reserved is not None
            self._note_grants(event, body.reserved, event.reserve_part)

    def _note_grants(self, event: ev.Fetch | ev.Reserve, body: ev.Reserved, part: int) -> None:
        if not body.lease:
            assert not body.grants
            return
        writer = Writer(part, [])
        client = self.clients[event.session]
        assert body.lease in client.fences.values()
        for grant in body.grants:
            for step in range(grant.count):
                key = event.keys[grant.index + step]
                self.parents[event.namespace, key].add(_parent(event, grant.index + step))
                place = (self.entry, event.namespace, grant.slot + step)
                content = self._granted(place, key, part)
                content.granted.add(part)
                content.writers.add(body.lease)
                writer.contents.append((place, content))
        assert writer.contents
        self.writers[body.lease] = writer
        self.session_of[body.lease] = event.session

    def _granted(self, place: Place, key: BlockKey, part: int) -> Content:
        there = self.contents.get(place)
        if there and there.key == key and self._is_open(there):
            assert part not in there.granted
            return there
        self._check_unused(place)
        for content in self.contents.values():
            assert content.key != key or not self._is_open(content), "two writers of one block"
        layout = self.store.catalog.namespaces[place[1]].layout
        self.contents[place] = Content(key, set(range(layout.shards)))
        return self.contents[place]

    def _is_open(self, content: Content) -> bool:
        """Say whether parts of a block may still come."""
        if content.aborted or not content.parts_missing:
            return False
        over_ns = content.last_seal_ns + self.store.config.write_lease_ns
        return bool(content.writers) or self.now_ns < over_ns

    def _note_seal(self) -> None:
        assert self._sealing is not None
        for place, content in self._sealing.contents:
            if content.aborted:
                continue
            content.parts_missing.discard(self._sealing.part)
            content.last_seal_ns = self.now_ns
            if not content.parts_missing:
                self.sealed.add((place[1], content.key))

    def _judge_fence(self, action: ev.SetFence) -> None:
        client = self.clients[action.session]
        before = client.fences.get(action.fence, 0)
        client.fences[action.fence] = action.lease
        if action.lease:
            assert before not in self.readers, "a fence of a live lease was taken"
            assert before not in self.writers, "a fence of a live lease was taken"
            return
        self.readers.pop(before, None)
        writer = self.writers.get(before)
        if writer is None:
            return
        for _, content in writer.contents:
            content.aborted = True
        if client.owner is None or client.dead:
            self._stop(before)

    def _judge_move(self, move: ev.Move) -> None:
        assert all(other.key != move.key for other in self.moves.values()), "two moves of a block"
        assert self.entry in (move.source, move.target)
        assert move.target not in self.refusing, ("written to a tier that takes no writes", move)
        self._check_holds((move.source, move.namespace, move.source_slot), move.key)
        target = (move.target, move.namespace, move.target_slot)
        self._check_unused(target)
        self.contents.pop(target, None)
        self.moves[move.move] = move

    def _judge_landed(self, action: ev.Landed) -> None:
        reader = self.readers.get(action.lease)
        if reader is None:
            return
        ended = [*action.indices, *action.failed, *action.declined]
        assert len(set(ended)) == len(ended)
        assert reader.pending >= set(ended) & reader.blocks.keys()
        reader.pending -= set(ended)
        for index, slot in zip(action.indices, action.slots, strict=True):
            if index not in reader.blocks:
                continue  # It failed before.
            (_, namespace, _), key = reader.blocks[index]
            reader.blocks[index] = ((self.entry, namespace, slot), key)
            self._check_holds(*reader.blocks[index])
        for index in action.failed:
            reader.blocks.pop(index, None)

    def _judge_reclaim(self, tier: int, namespace: int, region: int) -> None:
        self.regions.remove((tier, namespace, region))
        self.returning.add((tier, namespace, region))
        slots = self.store.room.spaces[namespace][tier].region_slots
        for slot in range(region * slots, (region + 1) * slots):
            self._check_unused((tier, namespace, slot), in_region=False)
            self.contents.pop((tier, namespace, slot), None)

    # ---- what holds

    def _check_holds(self, place: Place, key: BlockKey) -> None:
        content = self.contents.get(place)
        assert content is not None, ("nothing was written there", place)
        assert content.key == key, ("another block is there", place, content.key, key)
        assert not content.spoiled, ("it was found corrupt", place, key)
        assert not content.parts_missing, ("it was not sealed", place, key)

    def _check_unused(self, place: Place, *, in_region: bool = True) -> None:
        """Nobody reads a slot, writes to it, or moves bytes from or to it: it may be written."""
        tier, namespace, slot = place
        region = slot // self.store.room.spaces[namespace][tier].region_slots
        if in_region:
            assert (tier, namespace, region) in self.regions, ("not lent", place)
        for lease, reader in self.readers.items():
            # What is pending is not read yet: its slot is kept by its move.
            read = [reader.blocks[index][0] for index in reader.blocks.keys() - reader.pending]
            assert place not in read, ("read under a lease", place, lease)
        content = self.contents.get(place)
        assert content is None or not content.writers, ("still written", place, content)
        for move in self.moves.values():
            ends = {(move.source, move.source_slot), (move.target, move.target_slot)}
            assert (namespace, (tier, slot)) not in {(move.namespace, end) for end in ends}, place

    def _check_pending_runs(self) -> None:
        coming = {move.key for move in self.moves.values() if move.target == self.entry}
        for lease, reader in self.readers.items():
            for index in reader.pending:
                assert reader.blocks[index][1] in coming, ("waits for nothing", lease, index)

    def _check_waiting(self) -> None:
        for request in self._abandoned:
            self.asked.pop(request, None)
        for event in self.asked.values():
            assert isinstance(event, ev.Fetch | ev.Reserve), ("not answered", event)
            wakeup_ns = self.store.next_wakeup_ns()
            assert wakeup_ns is not None
            assert wakeup_ns <= event.wait_until_ns
            if isinstance(event, ev.Fetch):
                written = {c.key for c in self.contents.values() if self._is_open(c)}
                assert written & set(event.keys), ("waits for nobody", event)

    # ---- what clients do

    def _stop(self, lease: int) -> None:
        """A client neither reads nor writes under a lease any more."""
        self.readers.pop(lease, None)
        writer = self.writers.pop(lease, None)
        for _, content in writer.contents if writer else ():
            content.writers.discard(lease)
            content.aborted = True

    def _stop_all(self, client: Client) -> None:
        for lease, session in self.session_of.items():
            if session == client.number:
                self._stop(lease)

    def _stop_reading(self, place: Place) -> None:
        """Who reads a slot of a medium sees that it is corrupt, and stops."""
        for reader in self.readers.values():
            for index, (read, _) in list(reader.blocks.items()):
                if read == place and index not in reader.pending:
                    del reader.blocks[index]

    def _copies(self) -> dict[BlockKey, list[int | None]]:
        return {key: list(block.slots) for key, block in self.store.catalog.blocks.items()}

    def _lose(self, namespace: int, key: BlockKey) -> None:
        """A copy turns out to be corrupt: who reads one in a medium sees it, and stops."""
        tiers = self.store.config.tiers
        for reader in self.readers.values():
            for index, (place, other) in list(reader.blocks.items()):
                lost = other == key and place[1] == namespace and not tiers[place[0]].mapped
                if lost and index not in reader.pending:
                    del reader.blocks[index]


def _parent(event: ev.Match | ev.Fetch | ev.Reserve, index: int) -> BlockKey | None:
    """Return what a block that is asked for hangs on, None being the root."""
    return event.keys[index - 1] if index and not event.apart else None
