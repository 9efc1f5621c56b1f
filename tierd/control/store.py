"""The centre: every decision of the daemon, in one synchronous and pure call.

`Store.handle(event, now_ns)` takes what happened and returns what to do. It knows no clock,
loop, disk, network or tensor: the shell around it runs the actions and feeds their ends back
as events. So a whole daemon can be simulated from a seed, and nothing here needs a lock.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Any, Final

from tierd.control import events as ev
from tierd.control.catalog import Block, Catalog, Namespace
from tierd.control.config import StoreConfig
from tierd.control.counts import Counts
from tierd.control.expecting import Expecting
from tierd.control.incoming import Incoming, is_joinable
from tierd.control.leases import Lease, LeaseTable, Session
from tierd.control.moves import Moves, MoveState, Waiter
from tierd.control.persisting import Persisting
from tierd.control.planner import best_tiers, plan_fetch, stage, wait_for
from tierd.control.recovery import parents_first, recover
from tierd.control.room import Room
from tierd.control.waiting import Waiting
from tierd.core.errors import (
    LeaseExpired,
    NamespaceConflict,
    Overloaded,
)
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_MS

_RETRY_NS = 50 * NS_PER_MS

_PERSISTING: Final = {
    ev.Persist,
    ev.MovesDone,
    ev.MovesStalled,
    ev.TierFaulted,
    ev.TierReadOnly,
    ev.Tick,
}
"""Events after which a chain may be durable, or known not to become so."""

_NOBODY: Final = 0
"""The session of leases that the store itself holds. Real sessions are numbered from 1."""


class Store:
    """Catalog, slots, leases and moves of one daemon, and the rules between them."""

    def __init__(self, config: StoreConfig) -> None:
        self.config = config
        self.catalog = Catalog()
        self._outbox = ev.Outbox()
        self.room = Room(config, self.catalog, self._outbox)
        self.moves = Moves(config, self.catalog, self.room, self._outbox)
        self.leases = LeaseTable(self.catalog)
        self.pinned_bytes = 0
        self.sessions: dict[int, Session] = {}
        self.incoming = Incoming(config, self.catalog, self.room)
        self.counts: list[Counts] = []
        self.expecting = Expecting(config, self.room, self.moves, self._readable_prefix)
        self.waiting = Waiting()
        self.persisting = Persisting(self._is_durable, self._is_coming)
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            ev.OpenSession: self._open_session,
            ev.CloseSession: self._close_session,
            ev.OwnerGone: self._owner_gone,
            ev.OpenNamespace: self._open_namespace,
            ev.Match: self._match,
            ev.Fetch: self._fetch,
            ev.Stage: self._stage,
            ev.Reserve: self._reserve,
            ev.Seal: self._seal,
            ev.Release: self._release,
            ev.Renew: self._renew,
            ev.ReadFailed: self._read_failed,
            ev.Persist: self._persist,
            ev.Pin: self._pin,
            ev.Prefetch: self.expecting.prefetch,
            ev.EndTurn: self.expecting.end_turn,
            ev.EndSession: self.expecting.end_session,
            ev.Recovered: self._recovered,
            ev.CopyCorrupt: self._copy_corrupt,
            ev.MovesDone: self._moves_done,
            ev.MovesStalled: self._moves_stalled,
            ev.RegionReclaimed: self._region_reclaimed,
            ev.TierFaulted: self._tier_faulted,
            ev.TierReadOnly: self._tier_read_only,
            ev.TierRecovered: self._tier_recovered,
            ev.Touched: self._touched,
            ev.Tick: self._tick,
        }

    def handle(self, event: ev.Event, now_ns: int) -> list[ev.Action]:
        """Take note of `event` at `now_ns`, and return what the shell must do, in order."""
        self._expire(now_ns)
        self._handlers[type(event)](event, now_ns)
        self.moves.flush(now_ns)
        if self.persisting and type(event) in _PERSISTING:
            for request, blocks in self.persisting.pop_over(now_ns):
                self._reply(request, ev.Persisted(blocks))
        return self._outbox.drain()

    def next_wakeup_ns(self) -> int | None:
        """Return when the store next wants a `Tick`, if nothing else happens before."""
        times = (
            self.waiting.next_deadline_ns(),
            self.persisting.next_deadline_ns(),
            self.leases.next_expiry_ns(),
            self.moves.next_wakeup_ns(),
            self.incoming.next_expiry_ns(),
            self.expecting.next_ns(),
        )
        return min((time for time in times if time is not None), default=None)

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
            # Its process may live on: it must see that what it reads may change. And if it
            # was stopped in the middle of a copy, the slots stay apart until it is dead.
            self._outbox.add(ev.SetFence(session.number, lease.fence, 0))
            if lease.writings and session.owner is not None:
                self._stop_promising(lease)
                lease.session = -session.owner
            else:
                self._end_lease(lease)
        self.waiting.forget(event.session)
        self.expecting.returns.forget(event.session)
        self.persisting.forget(event.session)
        self._retry(aborted, now_ns)

    def _owner_gone(self, event: ev.OwnerGone, now_ns: int) -> None:
        # Its stream may outlive it a little.
        sessions = [x for x in self.sessions.values() if x.owner == event.owner]
        for session in sessions:
            session.owner = None
        own = {-event.owner, *(session.number for session in sessions)}
        aborted: list[BlockKey] = []
        for lease in [x for x in self.leases.leases.values() if x.session in own]:
            aborted += [writing.key for writing in lease.writings]
            self._end_lease(lease)
        self._retry(aborted, now_ns)

    def _open_namespace(self, event: ev.OpenNamespace, now_ns: int) -> None:
        name = event.name or event.layout.fingerprint.hex()
        # Equal layouts have equal keys: a second name for one is the same namespace.
        known = self.catalog.names.get(name) or self.catalog.namespace_of(event.layout)
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
        if len(self.catalog.names) < self.config.limits.names_max:
            self.catalog.names[name] = known
        self.room.rebalance(self.config.entry)
        self.room.lend_ahead(known.number, self.config.entry)
        self._reply(event, ev.NamespaceOpened(known.number, known.layout))

    def _add_namespace(self, name: str, layout: Any, region_slots: dict[int, int]) -> Namespace:
        namespace = Namespace(len(self.catalog.namespaces), name, layout)
        self.catalog.namespaces.append(namespace)
        self.catalog.names[name] = namespace
        self.counts.append(Counts(layout.block_tokens))
        self.expecting.add_namespace()
        tiers = range(len(self.config.tiers))
        bytes_ = layout.block_bytes
        self.room.add_namespace(
            bytes_, [region_slots.get(t) or self.room.region_slots(t, bytes_) for t in tiers]
        )
        return namespace

    def _recovered(self, event: ev.Recovered, now_ns: int) -> None:
        namespace = self._add_namespace(event.name, event.layout, {event.tier: event.region_slots})
        lost = recover(event, namespace.number, self.catalog, self.room)
        if lost:
            self._outbox.add(ev.DropRecords(namespace.number, event.tier, tuple(lost)))

    # ---- reading

    def _match(self, event: ev.Match, now_ns: int) -> None:
        held = self._held(event)
        by_tier = Counter(best_tiers(held, self.moves.online))
        tiers = range(len(self.config.tiers))
        further = tuple(self._held_further(event, len(held)))
        matched = ev.Matched(len(held), tuple(by_tier[tier] for tier in tiers), further=further)
        if event.hold and held:
            session = self.sessions[event.session]
            if self._has_too_many_leases(session, 1):
                self._reply(event, Overloaded("leases of the session", _RETRY_NS))
                return
            term_ns = self.config.read_lease_ns
            lease = self._grant(session, event.namespace, held, now_ns + term_ns)
            lease.first = len(held)
            matched = replace(matched, lease=lease.number, term_ns=term_ns)
            self.room.touch(event.namespace, held)
        missing = len(event.keys) - len(held) - len(further)
        if event.count_missing and missing:
            self.counts[event.namespace].count_missing(missing, of=len(event.keys))
        self._reply(event, matched)

    def _fetch(self, event: ev.Fetch, now_ns: int) -> None:
        keys, first = event.keys, event.first
        self.expecting.fetched(event, now_ns)
        held = self._held(event)
        if self._should_wait(event, len(held), now_ns):
            return
        session = self.sessions[event.session]
        if self._has_too_many_leases(session, 2):
            self._reply(event, Overloaded("leases of the session", _RETRY_NS))
            return
        found: list[int] = []
        lease = fence = 0
        runs: tuple[ev.Run, ...] = ()
        queued_bytes = self.moves.coming_bytes
        if len(held) > first:
            granted = self._grant(
                session, event.namespace, held, now_ns + self.config.read_lease_ns
            )
            plan = plan_fetch(held, event, self.config, self.room, self.moves)
            granted.found, granted.first, found = plan.found, first, plan.found[first:]
            wait_for(plan.under_way, held, event.session, granted.number, self.moves)
            if plan.under_way:
                self.room.extend(event.namespace, held)
            lease, fence, runs = granted.number, granted.fence, plan.runs
        missed = len(keys) - max(len(held), first)
        if event.apart:
            missed = min(missed, 1)  # What is behind it is asked for, and counted, anew.
        self.counts[event.namespace].count_fetch(found, missed)
        reserved = None
        if event.reserve_part is not None:
            reserved = self._reserve_now(session, event, held, event.reserve_part, now_ns)
        term_ns = self.config.read_lease_ns if lease else 0
        body = ev.Fetched(lease, fence, len(held), runs, reserved, queued_bytes, term_ns)
        self._reply(event, body)
        if held:
            self._outbox.add(ev.Defer(ev.Touched(event.namespace, keys[: len(held)])))
        self.expecting.bring_due(event.namespace, now_ns)

    def _stage(self, event: ev.Stage, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.expired or lease.session != event.session:
            return
        end = min(event.first + event.count, len(lease.blocks))
        wanted = range(max(lease.first, event.first), min(end, len(lease.found)))
        staging = stage(lease.blocks, wanted, self.config, self.room, self.moves)
        # What lies behind a failed block is not promised any more.
        staging.failed += range(max(0, event.first, len(lease.found)), end)
        wait_for(staging.under_way, lease.blocks, event.session, lease.number, self.moves)
        if staging.under_way:
            self.room.touch(lease.namespace, self._as_held_now(lease.blocks[:end]))
        if staging.landed or staging.failed or staging.declined:
            slots = tuple(staging.landed.values())
            failed, declined = tuple(staging.failed), tuple(staging.declined)
            indices = tuple(staging.landed)
            told = ev.Landed(event.session, lease.number, indices, slots, failed, declined)
            self._outbox.add(told)

    def _touched(self, event: ev.Touched, now_ns: int) -> None:
        """What follows from a fetch, done when its reply is on the way."""
        blocks = [b for key in event.keys if (b := self.catalog.blocks.get(key)) is not None]
        entry = self.config.entry
        self.moves.consider_write_back(blocks, entry, now_ns)
        if entry > 0:  # Only promotion asks how often.
            self.catalog.hits.update(blocks)
            self._promote(event.namespace, [b for b in blocks if b.hottest() == entry])
        self.room.touch(event.namespace, blocks)

    def _promote(self, namespace: int, blocks: list[Block]) -> None:
        wanted = [
            block
            for block in blocks
            if self.config.policies.promotion.promote(self.catalog.hits[block])
            and block.key not in self.moves.by_key
        ]
        target = self.config.entry - 1
        if not wanted or not self.moves.writable[target]:
            return
        slots = self.room.take(namespace, target, len(wanted))
        for block, slot in zip(wanted, slots, strict=False):
            self.moves.start(block, self.config.entry, target, slot, "promotion")

    def _read_failed(self, event: ev.ReadFailed, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.expired or lease.session != event.session:
            return
        if not lease.first <= event.index < len(lease.found):
            return  # It failed before, or was never promised.
        if not event.unanswered:
            self._corrupt(lease.blocks[event.index], lease.found[event.index])
        self._cut(lease, event.index)
        self._retry((), now_ns)

    def _copy_corrupt(self, event: ev.CopyCorrupt, now_ns: int) -> None:
        block = self.catalog.blocks.get(event.key)
        if block is not None and block.slots[event.tier] == event.slot:
            self._corrupt(block, event.tier)
            self._retry((), now_ns)

    def _corrupt(self, block: Block, tier: int) -> None:
        """Give up a copy whose bytes are not what was written.

        Leases on the block go on without it. Who reads the slot on a medium finds out as this
        one did, but who reads it in place does not: there it is not used again meanwhile.
        """
        self.counts[block.namespace].corrupt_blocks += 1
        if block.slots[tier] is None or block.key in self.moves.by_key:
            return
        if block in self.catalog.readers and self.config.tiers[tier].mapped:
            self.room.set_apart(block, tier)
        else:
            self.room.remove_copy(block, tier)

    def _cut(self, lease: Lease, index: int) -> None:
        """Count what a lease was promised from block `index` on as missed after all."""
        self.counts[lease.namespace].count_lost(lease.found[index:])
        del lease.found[index:]

    # ---- writing

    def _reserve(self, event: ev.Reserve, now_ns: int) -> None:
        session = self.sessions[event.session]
        if self._has_too_many_leases(session, 1):
            self._reply(event, Overloaded("leases of the session", _RETRY_NS))
            return
        reserved = self._reserve_now(session, event, self._held(event), event.part, now_ns)
        wanting = not reserved.grants and reserved.declined and now_ns < event.wait_until_ns
        if wanting and len(self.waiting) < self.config.limits.waiting_max:
            self.waiting.for_room(event)
            return
        self.counts[event.namespace].blocks_declined += reserved.declined
        self._reply(event, reserved)

    def _reserve_now(
        self,
        session: Session,
        event: ev.Fetch | ev.Reserve,
        held: list[Block],
        part: int,
        now_ns: int,
    ) -> ev.Reserved:
        """Grant what can be had at once: joined slots of other parts, and new ones."""
        wanted = self.incoming.wanted(event, len(held), part, self._is_readable)
        if not wanted:
            return ev.Reserved(0, (), 0)
        until_ns = now_ns + self.config.write_lease_ns
        parents = [] if event.apart else held
        lease = self._grant(session, event.namespace, parents, until_ns, writes=True)
        lease.part = part
        grants, declined = self.incoming.grant(lease, event, wanted)
        if not grants:
            self._outbox.add(ev.SetFence(session.number, lease.fence, 0))
            self._end_lease(lease)
            return ev.Reserved(0, (), declined)
        return ev.Reserved(lease.number, tuple(grants), declined)

    def _seal(self, event: ev.Seal, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.expired or lease.session != event.session:
            if lease is not None and lease.session == event.session:
                self._end_lease(lease)
            self._reply(event, LeaseExpired(event.lease))
            self._retry((), now_ns)
            return
        changed = [writing.key for writing in lease.writings]
        sealed, visible = self.incoming.seal(lease, event.count, now_ns)
        namespace = lease.namespace
        self.counts[namespace].blocks_sealed += len(visible)
        self.moves.consider_write_back(visible, self.config.entry, now_ns)
        self.room.extend(namespace, [*self._as_held_now(lease.blocks), *visible])
        self._end_lease(lease)
        self._reply(event, ev.Sealed(sealed))
        self.room.relax(namespace, self.config.entry)
        self._retry(changed, now_ns)

    # ---- leases

    def _has_too_many_leases(self, session: Session, more: int) -> bool:
        return len(session.leases) + more > self.config.limits.leases_per_session_max

    def _grant(
        self,
        session: Session,
        namespace: int,
        blocks: list[Block],
        until_ns: int,
        *,
        writes: bool = False,
    ) -> Lease:
        number = self.leases.next_number()
        lease = Lease(number, session.number, namespace, until_ns, blocks, writes=writes)
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
        self._retry(aborted, now_ns)

    def _end_lease(self, lease: Lease) -> None:
        """Forget a lease whose owner has let go: nothing is read or written under it now."""
        self.incoming.let_go(lease)
        self._let_go(lease)
        del self.leases.leases[lease.number]
        session = self.sessions.get(lease.session)
        if session is not None:
            session.leases.discard(lease.number)
            session.fences_free.append(lease.fence)

    def _stop_promising(self, lease: Lease) -> None:
        """Let a lease expire, but keep apart what its owner may still be writing to."""
        lease.expired = True
        self.incoming.abort(lease)
        self._let_go(lease)

    def _let_go(self, lease: Lease) -> None:
        blocks = self.leases.let_go(lease)
        if lease.pin_bytes:
            self.pinned_bytes -= lease.pin_bytes
            self.room.unpin(lease.namespace, blocks)
        if self.room.apart:
            self.room.give_apart()

    def _expire(self, now_ns: int) -> None:
        """End what is over, and let those go on who waited for that."""
        aborted = self.incoming.expire(now_ns)
        over = self.leases.pop_expired(now_ns)
        for lease in over:
            aborted += [writing.key for writing in lease.writings]
            session = self.sessions.get(lease.session)
            if session is not None:
                self._outbox.add(ev.SetFence(session.number, lease.fence, 0))
            if lease.writings and session is not None and session.owner is not None:
                self._stop_promising(lease)
            else:
                self._end_lease(lease)
        if over or aborted:
            self._retry(aborted, now_ns)

    def _renew(self, event: ev.Renew, now_ns: int) -> None:
        lease = self.leases.leases.get(event.lease)
        if lease is None or lease.expired or lease.session != event.session:
            self._reply(event, LeaseExpired(event.lease))
            return
        term = self.config.write_lease_ns if lease.writings else self.config.read_lease_ns
        self.leases.renew(lease, now_ns + term)
        self._reply(event, ev.Renewed(lease.expires_ns))

    def _persist(self, event: ev.Persist, now_ns: int) -> None:
        held = self._held(event)
        self.moves.write_now(held, self.config.entry)
        self.room.touch(event.namespace, held)
        if len(self.persisting) >= self.config.limits.waiting_max:
            event = replace(event, wait_until_ns=now_ns)
        self.persisting.add(event, [block.key for block in held])

    def _is_durable(self, key: BlockKey) -> bool:
        block = self.catalog.blocks.get(key)
        return block is not None and block.coldest() > self.config.entry

    def _is_coming(self, key: BlockKey) -> bool:
        due = self.room.is_due(key, self.config.entry + 1)
        return due and not self.moves.is_stalled(key)

    def _pin(self, event: ev.Pin, now_ns: int) -> None:
        quota = self.room.budgets[self.config.entry].bytes_max * self.config.limits.pinned_ratio_max
        block_bytes = self.catalog.namespaces[event.namespace].layout.block_bytes
        blocks_max = max(0, int(quota) - self.pinned_bytes) // block_bytes
        held = self._readable_prefix(event.namespace, event.keys)[:blocks_max]
        if held:
            until_ns = now_ns + min(event.ttl_ns, self.config.limits.pin_ns_max)
            lease = Lease(self.leases.next_number(), _NOBODY, event.namespace, until_ns, held)
            lease.pin_bytes = len(held) * block_bytes
            self.pinned_bytes += lease.pin_bytes
            self.leases.add(lease)
            self.room.pin(held)
        self._reply(event, ev.Pinned(len(held)))

    # ---- ends of actions

    def _moves_done(self, event: ev.MovesDone, now_ns: int) -> None:
        news: dict[Waiter, tuple[MoveState, bool]] = {}
        for done in event.done:
            state = self.moves.finish(done, now_ns)
            if done.fault == "source":
                self._source_failed(state)
            news.update(dict.fromkeys(state.waiters, (state, done.fault == "source")))
        told = sorted(news, key=lambda waiter: (waiter.session, waiter.lease))
        for (session, number), waiters in groupby(told, lambda w: (w.session, w.lease)):
            self._tell(session, number, {w.index: news[w] for w in waiters})
        self._retry((), now_ns)

    def _tell(self, session: int, number: int, ended: dict[int, tuple[MoveState, bool]]) -> None:
        """Tell a lease which of its blocks have landed, and where; count those that are lost."""
        lease = self.leases.leases.get(number)
        lost = [index for index, (_, corrupt) in ended.items() if corrupt]
        if lease is not None and lost:
            self._cut(lease, min(lost))
        if session in self.sessions:
            landed = {i: state.move.target_slot for i, (state, _) in ended.items() if state.landed}
            failed = tuple(index for index in ended if index not in landed)
            slots = tuple(landed.values())
            self._outbox.add(ev.Landed(session, number, tuple(landed), slots, failed))

    def _moves_stalled(self, event: ev.MovesStalled, now_ns: int) -> None:
        """Tell those who wait for moves without an answer that these have failed."""
        waiters = [waiter for number in event.moves for waiter in self.moves.stall(number)]
        waiters.sort(key=lambda waiter: (waiter.session, waiter.lease))
        for (session, number), group in groupby(waiters, lambda w: (w.session, w.lease)):
            if session in self.sessions:
                failed = tuple(waiter.index for waiter in group)
                self._outbox.add(ev.Landed(session, number, failed=failed))
        self._retry((), now_ns)

    def _source_failed(self, state: MoveState) -> None:
        block = self.catalog.blocks.get(state.move.key)
        if block is not None:
            self._corrupt(block, state.move.source)

    def _region_reclaimed(self, event: ev.RegionReclaimed, now_ns: int) -> None:
        self.room.end_return(event.namespace, event.tier, event.region)
        if event.tier == self.config.entry:
            self.room.lend_ahead_to_poorest(event.tier)
        self._retry((), now_ns)

    def _tier_faulted(self, event: ev.TierFaulted, now_ns: int) -> None:
        self.moves.go_offline(event.tier)
        self._retry((), now_ns)

    def _tier_read_only(self, event: ev.TierReadOnly, now_ns: int) -> None:
        self.moves.go_read_only(event.tier)
        self._retry((), now_ns)

    def _tier_recovered(self, event: ev.TierRecovered, now_ns: int) -> None:
        """Use a tier again. What was published meanwhile is written down now."""
        self.moves.go_online(event.tier)
        entry = self.config.entry
        if event.tier == entry + 1:
            pins = [lease for lease in self.leases.leases.values() if lease.pin_bytes]
            for namespace, policies in enumerate(self.room.policies):
                # No policy knows what is pinned.
                pinned = [b.key for pin in pins if pin.namespace == namespace for b in pin.blocks]
                warmest_first = reversed(list(policies[entry].victims()))
                keys = parents_first([*pinned, *warmest_first], self.catalog)
                blocks = [self.catalog.blocks[key] for key in keys]
                self.moves.consider_write_back(blocks, entry, now_ns)
                self.room.touch_in_order(namespace, blocks)
        self._retry((), now_ns)

    def _tick(self, event: ev.Tick, now_ns: int) -> None:
        for waiting in self.waiting.pop_over(now_ns):
            self._handlers[type(waiting)](waiting, now_ns)
        self.expecting.tick(now_ns)

    # ---- waiting

    def _should_wait(self, event: ev.Fetch, held: int, now_ns: int) -> bool:
        """Park a fetch while another is writing the next block that it needs."""
        if held == len(event.keys) or now_ns >= event.wait_until_ns:
            return False
        writing = self.incoming.by_key.get(event.keys[held])
        if writing is None or len(self.waiting) >= self.config.limits.waiting_max:
            return False
        if event.reserve_part is not None and is_joinable(writing, event.reserve_part):
            return False
        self.waiting.for_key(writing.key, event)
        return True

    def _retry(self, keys: Iterable[BlockKey], now_ns: int) -> None:
        """Ask again what waits for one of `keys`, sealed or given up, and what waits for room."""
        for key in keys:
            for event in self.waiting.pop_key(key):
                self._handlers[type(event)](event, now_ns)
        for namespace in self.waiting.namespaces_for_room():
            while (first := self.waiting.pop_first_for_room(namespace)) is not None:
                self._handlers[type(first)](first, now_ns)
                if self.waiting.is_back_first(first):
                    break  # Still nothing for the first in line: the others wait behind it.

    # ---- small things

    def _held(self, event: ev.Match | ev.Fetch | ev.Reserve | ev.Persist) -> list[Block]:
        """Return what can be read of what an event asks for, up to the first that cannot."""
        if not event.apart:
            return self._readable_prefix(event.namespace, event.keys)
        root = self.catalog.namespaces[event.namespace].layout.root
        return self._leading_readable(self.catalog.held_apart(root, event.keys))

    def _held_further(self, event: ev.Match, first: int) -> Iterator[int]:
        """Yield the indices, from `first` on, of blocks apart that can be read."""
        root = self.catalog.namespaces[event.namespace].layout.root
        for index in range(first, len(event.keys) if event.apart else 0):
            block = self.catalog.blocks.get(event.keys[index])
            if block is not None and block.parent == root and self._is_readable(block):
                yield index

    def _readable_prefix(self, namespace: int, keys: Sequence[BlockKey]) -> list[Block]:
        root = self.catalog.namespaces[namespace].layout.root
        return self._leading_readable(self.catalog.held_prefix(root, keys))

    def _leading_readable(self, held: list[Block]) -> list[Block]:
        if all(self.moves.online):
            return held
        return list(takewhile(self._is_readable, held))

    def _as_held_now(self, blocks: Sequence[Block]) -> list[Block]:
        """Return leased blocks, but of one that was lost and published anew the new one."""
        return [self.catalog.blocks.get(block.key, block) for block in blocks]

    def _is_readable(self, block: Block) -> bool:
        pairs = zip(block.slots, self.moves.online, strict=True)
        return any(slot is not None and online for slot, online in pairs)

    def _reply(self, event: Any, body: ev.ReplyBody) -> None:
        if event.request:
            self._outbox.add(ev.Reply(event.session, event.request, body))
