"""The centre: every decision of the daemon, in one synchronous and pure call.

`Store.handle(event, now_ns)` takes what happened and returns what to do. It knows no clock,
loop, disk, network or tensor: the shell around it runs the actions and feeds their ends back
as events. So a whole daemon can be simulated from a seed, and nothing here needs a lock.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tierd.control import events as ev
from tierd.control.catalog import Block, Catalog, Namespace
from tierd.control.config import StoreConfig
from tierd.control.leases import Lease, LeaseTable, Session, Writing
from tierd.control.moves import Moves, MoveState
from tierd.control.planner import plan_fetch, wait_for
from tierd.control.room import Room
from tierd.core.errors import (
    InvalidRequest,
    LeaseExpired,
    NamespaceConflict,
    Overloaded,
    TierdError,
)
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_MS

_RETRY_NS = 50 * NS_PER_MS


@dataclass(slots=True)
class Counts:
    """What was asked of one namespace, in tokens, and what came of it.

    Law: asked = sum of hits + missed, after every step.
    """

    requests: int = 0
    tokens_asked: int = 0
    tokens_hit: Counter[int] = field(default_factory=Counter)
    tokens_missed: int = 0
    blocks_sealed: int = 0
    blocks_declined: int = 0
    corrupt_blocks: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A fetch or reservation that is asked again when what it waits for has changed."""

    event: ev.Fetch | ev.Reserve


class Store:
    """Catalog, slots, leases and moves of one daemon, and the rules between them."""

    def __init__(self, config: StoreConfig) -> None:
        self.config = config
        self.catalog = Catalog()
        self._outbox = ev.Outbox()
        self.room = Room(config, self.catalog, self._outbox)
        self.moves = Moves(config, self.catalog, self.room, self._outbox)
        self.leases = LeaseTable()
        self.sessions: dict[int, Session] = {}
        self.writing: dict[BlockKey, Writing] = {}
        self.counts: list[Counts] = []
        self.waiting_for_key: dict[BlockKey, list[_Waiting]] = defaultdict(list)
        self.waiting_for_room: deque[_Waiting] = deque()
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            ev.OpenSession: self._open_session,
            ev.CloseSession: self._close_session,
            ev.OwnerGone: self._owner_gone,
            ev.OpenNamespace: self._open_namespace,
            ev.Match: self._match,
            ev.Fetch: self._fetch,
            ev.Reserve: self._reserve,
            ev.Seal: self._seal,
            ev.Release: self._release,
            ev.Renew: self._renew,
            ev.ReadFailed: self._read_failed,
            ev.Pin: self._pin,
            ev.Prefetch: self._prefetch,
            ev.EndTurn: self._end_turn,
            ev.EndSession: self._end_session,
            ev.Recovered: self._recovered,
            ev.MovesDone: self._moves_done,
            ev.RegionReclaimed: self._region_reclaimed,
            ev.TierFaulted: self._tier_faulted,
            ev.Touched: self._touched,
            ev.Tick: self._tick,
        }

    def handle(self, event: ev.Event, now_ns: int) -> list[ev.Action]:
        """Take note of `event` at `now_ns`, and return what the shell must do, in order."""
        self._expire(now_ns)
        self._handlers[type(event)](event, now_ns)
        self.moves.flush()
        return self._outbox.drain()

    def next_wakeup_ns(self) -> int | None:
        """Return when the store next wants a `Tick`, if nothing else happens before."""
        times = [w.event.wait_until_ns for ws in self.waiting_for_key.values() for w in ws]
        times += [w.event.wait_until_ns for w in self.waiting_for_room]
        expiry = self.leases.next_expiry_ns()
        return min(times + ([expiry] if expiry is not None else []), default=None)

    # ---- sessions and namespaces

    def _open_session(self, event: ev.OpenSession, now_ns: int) -> None:
        fences = list(range(self.config.limits.leases_per_session_max - 1, -1, -1))
        self.sessions[event.session] = Session(event.session, event.owner, fences)

    def _close_session(self, event: ev.CloseSession, now_ns: int) -> None:
        session = self.sessions.pop(event.session)
        aborted: list[BlockKey] = []
        for number in list(session.leases):
            lease = self.leases.leases[number]
            aborted += [writing.key for writing in lease.writings]
            if lease.writings and session.owner is not None:
                # Its process may live on, stopped in the middle of a copy: the slots stay
                # apart until it is dead.
                self._expire_lease(lease)
                lease.session = -session.owner
            else:
                self._end_lease(lease)
        self._forget_waiting(event.session)
        for key in aborted:
            self._retry_key(key, now_ns)
        self._retry_room(now_ns)

    def _owner_gone(self, event: ev.OwnerGone, now_ns: int) -> None:
        for lease in [x for x in self.leases.leases.values() if x.session == -event.owner]:
            self._end_lease(lease)
        self._retry_room(now_ns)

    def _open_namespace(self, event: ev.OpenNamespace, now_ns: int) -> None:
        name = event.name or event.layout.fingerprint.hex()
        known = self.catalog.namespace_named(name)
        if known is None:
            limit = self.config.limits.namespaces_max
            if len(self.catalog.namespaces) >= limit:
                self._reply(event, Overloaded("namespaces", _RETRY_NS))
                return
            known = self._add_namespace(name, event.layout, {})
        elif known.layout != event.layout:
            differences = known.layout.differences(event.layout)
            self._reply(event, NamespaceConflict(name, differences))
            return
        self.room.rebalance(self.config.entry)
        self.room.lend_ahead(known.number, self.config.entry)
        self._reply(event, ev.NamespaceOpened(known.number, known.layout))

    def _add_namespace(self, name: str, layout: Any, region_slots: dict[int, int]) -> Namespace:
        namespace = Namespace(len(self.catalog.namespaces), name, layout)
        self.catalog.namespaces.append(namespace)
        self.counts.append(Counts())
        tiers = range(len(self.config.tiers))
        bytes_ = layout.block_bytes
        self.room.add_namespace(
            bytes_, [region_slots.get(t) or self.room.region_slots(t, bytes_) for t in tiers]
        )
        return namespace

    def _recovered(self, event: ev.Recovered, now_ns: int) -> None:
        namespace = self._add_namespace(event.name, event.layout, {event.tier: event.region_slots})
        space = self.room.spaces[namespace.number][event.tier]
        lost = []
        for region in sorted({copy.slot // event.region_slots for copy in event.copies}):
            if space.budget.lend(space.region_bytes):
                space.adopt(region)
        slots: set[int] = set()
        recency: dict[BlockKey, int] = {}
        tiers = len(self.config.tiers)
        for age, copy in enumerate(event.copies):
            if copy.slot // event.region_slots not in space.regions or copy.slot in slots:
                lost.append(copy.key)
                continue
            slots.add(copy.slot)
            self.catalog.add_copy(
                namespace.number, copy.key, copy.parent, event.tier, copy.slot, tiers
            )
            recency[copy.key] = age
        space.take_many_exactly(slots)
        self.room.policies[namespace.number][event.tier].touch(_leaf_last(event.copies, recency))
        if lost:
            self._outbox.add(ev.DropRecords(namespace.number, event.tier, tuple(lost)))

    # ---- reading

    def _match(self, event: ev.Match, now_ns: int) -> None:
        held = self._readable_prefix(event.keys)
        by_tier = [0] * len(self.config.tiers)
        for block in held:
            by_tier[self._found_in(block)] += 1
        self._reply(event, ev.Matched(len(held), tuple(by_tier)))

    def _fetch(self, event: ev.Fetch, now_ns: int) -> None:
        keys = event.keys
        held = self._readable_prefix(keys)
        if self._should_wait(event, len(held), now_ns):
            return
        session = self.sessions[event.session]
        if len(session.leases) + 2 > self.config.limits.leases_per_session_max:
            self._reply(event, Overloaded("leases of the session", _RETRY_NS))
            return
        self._count_fetch(event.namespace, len(keys) - len(held))
        lease = fence = 0
        runs: tuple[ev.Run, ...] = ()
        if held:
            granted = self._grant(
                session, event.namespace, held, now_ns + self.config.read_lease_ns
            )
            plan = plan_fetch(held, self.config, self.room, self.moves)
            granted.found = plan.found
            wait_for(plan, held, event.session, granted.number, self.moves)
            self._count_hits(event.namespace, plan.found)
            lease, fence, runs = granted.number, granted.fence, plan.runs
        reserved = None
        if event.reserve_part is not None:
            reserved = self._reserve_now(
                session, event.namespace, keys, held, event.reserve_part, now_ns
            )
        self._reply(event, ev.Fetched(lease, fence, len(held), runs, reserved))
        if held:
            self._outbox.add(ev.Defer(ev.Touched(event.namespace, keys[: len(held)])))

    def _touched(self, event: ev.Touched, now_ns: int) -> None:
        """What follows from a fetch, done when its reply is on the way."""
        blocks = [b for key in event.keys if (b := self.catalog.blocks.get(key)) is not None]
        self._touch(event.namespace, blocks)
        for block in blocks:
            block.hits += 1
        entry = self.config.entry
        self.moves.consider_write_back(blocks, entry)
        if entry > 0:
            self._promote(event.namespace, [b for b in blocks if b.hottest() == entry])

    def _promote(self, namespace: int, blocks: list[Block]) -> None:
        wanted = [
            block
            for block in blocks
            if self.config.policies.promotion.promote(block.hits)
            and block.key not in self.moves.by_key
        ]
        target = self.config.entry - 1
        if not wanted or not self.moves.online[target]:
            return
        # Held while room is made, so that the target does not evict what it is to receive.
        slots = self.room.take(namespace, target, len(wanted))
        for block, slot in zip(wanted, slots, strict=False):
            self.moves.start(block, self.config.entry, target, slot, "promotion")

    def _read_failed(self, event: ev.ReadFailed, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or not 0 <= event.index < len(lease.blocks):
            return
        tier = lease.found[event.index]
        self._corrupt(lease.blocks[event.index], tier)
        self._cut(lease, event.index)

    def _corrupt(self, block: Block, tier: int) -> None:
        """Give up a copy whose bytes are not what was written.

        Leases on the block go on without it: who reads that slot finds out as this one did.
        """
        self.counts[block.namespace].corrupt_blocks += 1
        if block.slots[tier] is not None and block.key not in self.moves.by_key:
            self.room.remove_copy(block, tier)

    def _cut(self, lease: Lease, index: int) -> None:
        """Count what a lease was promised from block `index` on as missed after all."""
        counts = self.counts[lease.namespace]
        tokens = self.catalog.namespaces[lease.namespace].layout.block_tokens
        for tier in lease.found[index:]:
            counts.tokens_hit[tier] -= tokens
            counts.tokens_missed += tokens
        del lease.found[index:]

    # ---- writing

    def _reserve(self, event: ev.Reserve, now_ns: int) -> None:
        session = self.sessions[event.session]
        if len(session.leases) + 1 > self.config.limits.leases_per_session_max:
            self._reply(event, Overloaded("leases of the session", _RETRY_NS))
            return
        held = self._readable_prefix(event.keys)
        reserved = self._reserve_now(session, event.namespace, event.keys, held, event.part, now_ns)
        wanting = not reserved.grants and reserved.declined and now_ns < event.wait_until_ns
        if wanting and self._waiting_count() < self.config.limits.waiting_max:
            self.waiting_for_room.append(_Waiting(event))
            return
        self.counts[event.namespace].blocks_declined += reserved.declined
        self._reply(event, reserved)

    def _reserve_now(
        self,
        session: Session,
        namespace: int,
        keys: Sequence[BlockKey],
        held: list[Block],
        part: int,
        now_ns: int,
    ) -> ev.Reserved:
        """Grant what can be had at once: joined slots of other parts, and new ones."""
        layout = self.catalog.namespaces[namespace].layout
        wanted: list[int] = []
        for index in range(len(held), len(keys)):
            writing = self.writing.get(keys[index])
            if writing is not None and not _joinable(writing, part):
                break  # Another is writing it: what hangs on it may wait for the next turn.
            if writing is not None or not self._is_readable(keys[index]):
                wanted.append(index)
            if len(wanted) == self.config.limits.slots_per_publish_max:
                break
        fresh = [index for index in wanted if keys[index] not in self.writing]
        lease = self._grant(session, namespace, held, now_ns + self.config.write_lease_ns)
        lease.part = part
        slots = self.room.take(namespace, self.config.entry, len(fresh))
        declined = len(fresh) - len(slots)
        end = fresh[len(slots)] if declined else len(keys)
        new_slots = iter(slots)
        grants: list[ev.Grant] = []
        for index in wanted:
            if index >= end:
                break
            key = keys[index]
            writing = self.writing.get(key)
            if writing is None:
                parent = keys[index - 1] if index else layout.root
                writing = Writing(
                    key, parent, namespace, next(new_slots), set(range(layout.shards))
                )
                self.writing[key] = writing
            writing.leases[part] = lease.number
            lease.writings.append(writing)
            _extend(grants, index, writing.slot)
        if not lease.writings:
            self._end_lease(lease)
            return ev.Reserved(0, (), declined)
        return ev.Reserved(lease.number, tuple(grants), declined)

    def _seal(self, event: ev.Seal, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.expired:
            if lease is not None:
                self._end_lease(lease)
            self._reply(event, LeaseExpired(event.lease))
            self._retry_room(now_ns)
            return
        kept, given_up = lease.writings[: event.count], lease.writings[event.count :]
        lease.writings = given_up
        visible = []
        sealed = 0
        for writing in kept:
            del writing.leases[lease.part]
            writing.parts_missing.discard(lease.part)
            if writing.aborted:
                self._free_if_idle(writing)
                continue
            sealed += 1
            if not writing.parts_missing:
                visible.append(self._publish(writing))
        counts = self.counts[lease.namespace]
        counts.blocks_sealed += len(visible)
        self._touch(lease.namespace, [*lease.blocks, *visible])
        self.moves.consider_write_back(visible, self.config.entry)
        namespace = lease.namespace
        self._end_lease(lease)
        self._reply(event, ev.Sealed(sealed))
        self.room.relax(namespace, self.config.entry)
        for block in visible:
            self._retry_key(block.key, now_ns)
        self._retry_room(now_ns)

    def _publish(self, writing: Writing) -> Block:
        del self.writing[writing.key]
        return self.catalog.add_copy(
            writing.namespace,
            writing.key,
            writing.parent,
            self.config.entry,
            writing.slot,
            len(self.config.tiers),
        )

    def _abort(self, writing: Writing) -> None:
        """Decide that a block will not be published. Nobody ever saw it."""
        if not writing.aborted:
            writing.aborted = True
            del self.writing[writing.key]

    def _free_if_idle(self, writing: Writing) -> None:
        if writing.aborted and not writing.leases:
            self.room.give(writing.namespace, self.config.entry, writing.slot)

    # ---- leases

    def _grant(self, session: Session, namespace: int, blocks: list[Block], until_ns: int) -> Lease:
        lease = Lease(self.leases.next_number(), session.number, namespace, until_ns, blocks)
        lease.fence = session.fences_free.pop()
        session.leases.add(lease.number)
        self.leases.add(lease)
        self._outbox.add(ev.SetFence(session.number, lease.fence, lease.number))
        return lease

    def _release(self, event: ev.Release, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.session != event.session:
            return
        aborted = [writing.key for writing in lease.writings]
        self._end_lease(lease)
        for key in aborted:
            self._retry_key(key, now_ns)
        self._retry_room(now_ns)

    def _end_lease(self, lease: Lease) -> None:
        """Forget a lease whose owner has let go: nothing is read or written under it now."""
        for writing in lease.writings:
            self._abort(writing)
            writing.leases.pop(lease.part, None)
            self._free_if_idle(writing)
        self.leases.remove(lease)
        session = self.sessions.get(lease.session)
        if session is not None:
            session.leases.discard(lease.number)
            session.fences_free.append(lease.fence)

    def _expire_lease(self, lease: Lease) -> None:
        """End the promise. What its owner may still be writing to stays reserved."""
        lease.expired = True
        for writing in lease.writings:
            self._abort(writing)
        self.leases.let_go(lease)
        self._outbox.add(ev.SetFence(lease.session, lease.fence, 0))

    def _expire(self, now_ns: int) -> None:
        for lease in self.leases.pop_expired(now_ns):
            aborted = [writing.key for writing in lease.writings]
            session = self.sessions.get(lease.session)
            if lease.writings and session is not None and session.owner is not None:
                self._expire_lease(lease)
            else:
                self._outbox.add(ev.SetFence(lease.session, lease.fence, 0))
                self._end_lease(lease)
            for key in aborted:
                self._retry_key(key, now_ns)

    def _renew(self, event: ev.Renew, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.expired or lease.session != event.session:
            self._reply(event, LeaseExpired(event.lease))
            return
        term = self.config.write_lease_ns if lease.writings else self.config.read_lease_ns
        self.leases.renew(lease, now_ns + term)
        self._reply(event, ev.Renewed(lease.expires_ns))

    # ---- hints

    def _pin(self, event: ev.Pin, now_ns: int) -> None:
        tier = self.config.entry
        quota = self.room.budgets[tier].bytes_max * self.config.limits.pinned_ratio_max
        block_bytes = self.catalog.namespaces[event.namespace].layout.block_bytes
        pinned = sum(
            len(x.blocks) * self.catalog.namespaces[x.namespace].layout.block_bytes
            for x in self.leases.leases.values()
            if x.pin
        )
        room = max(0, int(quota - pinned)) // block_bytes
        held = self._readable_prefix(event.keys)[:room]
        if held:
            lease = Lease(
                self.leases.next_number(), 0, event.namespace, now_ns + event.ttl_ns, held
            )
            lease.pin = True
            self.leases.add(lease)
        self._reply(event, ev.Pinned(len(held)))

    def _prefetch(self, event: ev.Prefetch, now_ns: int) -> None:
        held = self._readable_prefix(event.keys)
        entry = self.config.entry
        cold = [b for b in held if self._found_in(b) > entry and b.key not in self.moves.by_key]
        slots = self.room.take(event.namespace, entry, len(cold)) if cold else []
        for block, slot in zip(cold, slots, strict=False):
            self.moves.start(block, self._found_in(block), entry, slot, "prefetch")

    def _end_turn(self, event: ev.EndTurn, now_ns: int) -> None:
        held = self._readable_prefix(event.keys)
        self._touch(event.namespace, held)
        self.moves.hurry(held, self.config.entry)

    def _end_session(self, event: ev.EndSession, now_ns: int) -> None:
        for tier, policy in enumerate(self.room.policies[event.namespace]):
            held = self._readable_prefix(event.keys)[event.shared :]
            policy.cool([block.key for block in held if block.slots[tier] is not None])

    # ---- ends of actions

    def _moves_done(self, event: ev.MovesDone, now_ns: int) -> None:
        landed: dict[tuple[int, int], list[BlockKey]] = defaultdict(list)
        told: dict[tuple[int, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for done in event.done:
            state = self.moves.finish(done)
            if done.fault is None:
                landed[state.move.namespace, state.move.target].append(state.move.key)
            elif done.fault == "source":
                self._source_failed(state)
            for waiter in state.waiters:
                told[waiter.session, waiter.lease][done.fault is not None].append(waiter.index)
        for (namespace, tier), keys in landed.items():
            for tip in self._tips(keys):
                chain = self._chain_to(tip)
                present = [block.key for block in chain if block.slots[tier] is not None]
                self.room.policies[namespace][tier].touch(present)
        for (session, number), (indices, failed) in told.items():
            lease = self.leases.leases.get(number)
            if lease is not None and failed:
                self._cut(lease, min(failed))
            if session in self.sessions:
                self._outbox.add(ev.Landed(session, number, tuple(indices), tuple(failed)))
        self._retry_room(now_ns)

    def _source_failed(self, state: MoveState) -> None:
        block = self.catalog.blocks.get(state.move.key)
        if block is not None:
            self._corrupt(block, state.move.source)

    def _region_reclaimed(self, event: ev.RegionReclaimed, now_ns: int) -> None:
        self.room.end_return(event.namespace, event.tier, event.region)
        if event.tier == self.config.entry:
            self.room.lend_ahead_to_poorest(event.tier)
        self._retry_room(now_ns)

    def _tier_faulted(self, event: ev.TierFaulted, now_ns: int) -> None:
        self.moves.online[event.tier] = False

    def _tick(self, event: ev.Tick, now_ns: int) -> None:
        over = [
            waiting
            for waitings in (*self.waiting_for_key.values(), self.waiting_for_room)
            for waiting in waitings
            if waiting.event.wait_until_ns <= now_ns
        ]
        for waiting in over:
            self._stop_waiting(waiting)
            self._handlers[type(waiting.event)](waiting.event, now_ns)

    # ---- waiting

    def _should_wait(self, event: ev.Fetch, held: int, now_ns: int) -> bool:
        """Park a fetch while another is writing the next block that it needs."""
        if held == len(event.keys) or now_ns >= event.wait_until_ns:
            return False
        writing = self.writing.get(event.keys[held])
        if writing is None or self._waiting_count() >= self.config.limits.waiting_max:
            return False
        if event.reserve_part is not None and _joinable(writing, event.reserve_part):
            return False
        self.waiting_for_key[writing.key].append(_Waiting(event))
        return True

    def _retry_key(self, key: BlockKey, now_ns: int) -> None:
        for waiting in self.waiting_for_key.pop(key, ()):
            self._handlers[type(waiting.event)](waiting.event, now_ns)

    def _retry_room(self, now_ns: int) -> None:
        for _ in range(len(self.waiting_for_room)):
            waiting = self.waiting_for_room.popleft()
            before = len(self.waiting_for_room)
            self._handlers[type(waiting.event)](waiting.event, now_ns)
            if len(self.waiting_for_room) > before:
                # Still nothing for the first in line: the others wait behind it.
                self.waiting_for_room.rotate(1)
                return

    def _stop_waiting(self, waiting: _Waiting) -> None:
        if waiting in self.waiting_for_room:
            self.waiting_for_room.remove(waiting)
            return
        for key, waitings in list(self.waiting_for_key.items()):
            if waiting in waitings:
                waitings.remove(waiting)
                if not waitings:
                    del self.waiting_for_key[key]

    def _forget_waiting(self, session: int) -> None:
        every = [w for ws in (*self.waiting_for_key.values(), self.waiting_for_room) for w in ws]
        for waiting in every:
            if waiting.event.session == session:
                self._stop_waiting(waiting)

    def _waiting_count(self) -> int:
        return len(self.waiting_for_room) + sum(map(len, self.waiting_for_key.values()))

    # ---- small things

    def _readable_prefix(self, keys: Sequence[BlockKey]) -> list[Block]:
        held = self.catalog.held_prefix(keys)
        if all(self.moves.online):
            return held
        for index, block in enumerate(held):
            if not any(s is not None and self.moves.online[t] for t, s in enumerate(block.slots)):
                return held[:index]
        return held

    def _is_readable(self, key: BlockKey) -> bool:
        return bool(self._readable_prefix((key,)))

    def _found_in(self, block: Block) -> int:
        online = self.moves.online
        return next(t for t, slot in enumerate(block.slots) if slot is not None and online[t])

    def _touch(self, namespace: int, blocks: Sequence[Block]) -> None:
        for tier, policy in enumerate(self.room.policies[namespace]):
            policy.touch([block.key for block in blocks if block.slots[tier] is not None])

    def _chain_to(self, key: BlockKey) -> list[Block]:
        """Return the blocks from the root, or the first gap, down to `key`."""
        chain = []
        block = self.catalog.blocks.get(key)
        while block is not None:
            chain.append(block)
            block = self.catalog.blocks.get(block.parent)
        chain.reverse()
        return chain

    def _tips(self, keys: Sequence[BlockKey]) -> list[BlockKey]:
        """Return those of `keys` that are no parent of another."""
        parents = {self.catalog.blocks[key].parent for key in keys}
        return [key for key in keys if key not in parents]

    def _count_fetch(self, namespace: int, missed: int) -> None:
        counts = self.counts[namespace]
        tokens = missed * self.catalog.namespaces[namespace].layout.block_tokens
        counts.requests += 1
        counts.tokens_asked += tokens
        counts.tokens_missed += tokens

    def _count_hits(self, namespace: int, found: Sequence[int]) -> None:
        counts = self.counts[namespace]
        tokens = self.catalog.namespaces[namespace].layout.block_tokens
        for tier, blocks in Counter(found).items():
            counts.tokens_hit[tier] += blocks * tokens
            counts.tokens_asked += blocks * tokens

    def _reply(self, event: Any, body: ev.ReplyBody) -> None:
        if event.request:
            self._outbox.add(ev.Reply(event.session, event.request, body))

    def checked_namespace(self, number: int) -> Namespace:
        """Return a namespace by its number.

        Raises:
            InvalidRequest: there is none.
        """
        if not 0 <= number < len(self.catalog.namespaces):
            raise InvalidRequest("namespace", str(number), "open it in this session first")
        return self.catalog.namespaces[number]


def _joinable(writing: Writing, part: int) -> bool:
    """Say whether `part` of a block in the making is still nobody's."""
    return part in writing.parts_missing and part not in writing.leases


def _extend(grants: list[ev.Grant], index: int, slot: int) -> None:
    """Add one slot to the grants, to the last run if it continues that."""
    if grants:
        last = grants[-1]
        if index == last.index + last.count and slot == last.slot + last.count:
            grants[-1] = ev.Grant(last.index, last.slot, last.count + 1)
            return
    grants.append(ev.Grant(index, slot, 1))


def _leaf_last(copies: Sequence[ev.StoredCopy], age: dict[BlockKey, int]) -> list[BlockKey]:
    """Return the keys warmest first, every parent before its children.

    A block is as recent as its most recent descendant. Children are written after their
    parents, so one pass from the newest on carries that down to the root.
    """
    recency = dict(age)
    for copy in reversed(copies):
        own = recency.get(copy.key)
        if own is not None and recency.get(copy.parent, own) < own:
            recency[copy.parent] = own
    return sorted(age, key=lambda key: (-recency[key], age[key]))


__all__ = ["Counts", "Store", "TierdError"]
