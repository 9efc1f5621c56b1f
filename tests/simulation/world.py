"""A whole daemon without a daemon: the store, mediums, moves and a clock, all from one seed.

Time is an integer. Whatever takes time is a pending end in one heap, and the world goes from end
to end. After every step of the store its laws are checked, and every request that it left
unanswered must be one that may wait. What clients do is left to `clients.py`, what becomes of
moves to `mover.py`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Protocol, Self

from tests.simulation.mediums import DISK, HOST, Mediums
from tests.simulation.mover import Mover
from tests.stores import tier
from tierd.control import events as ev
from tierd.control import laws
from tierd.control.config import Limits, StoreConfig
from tierd.control.policies import Policies, Promotion
from tierd.control.store import Store
from tierd.core.keys import BlockKey
from tierd.core.units import PAGE_BYTES
from tierd.tiers.faulty import NO_FAULTS, FaultRatios
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.promotion import NeverPromote, PromoteByCost, PromoteOnHit
from tierd_policies.registry import ADMISSION, EVICTION, PREFETCH

_EVENTS_KEPT = 40
_STEPS_MAX = 100_000


Waits = ev.Fetch | ev.Reserve | ev.Persist
"""Requests that say until when they may be left unanswered."""

Request = Waits | ev.OpenNamespace | ev.Match | ev.Seal | ev.Renew | ev.Pin


class Session(Protocol):
    """A client, as the daemon's side of its stream sees it."""

    number: int
    fences: dict[int, int]

    def receive(self, message: ev.Reply | ev.Landed) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed came to, the same every time.

    `reads` copied `blocks_read` blocks, each compared with what was sealed; `misses` are reads
    whose fence no longer showed the lease. `spoilt` blocks were stored wrongly; `recoveries` are
    tiers that came back.
    """

    seed: int
    steps: int
    ended_ns: int
    reads: int
    blocks_read: int
    misses: int
    spoilt: int
    recoveries: int


def random_config(rng: Random) -> StoreConfig:
    """Return three tiers of a few slots, with tight limits and one of the policies."""
    limits = Limits(
        leases_per_session_max=rng.randint(3, 8),
        waiting_max=rng.randint(1, 6),
        slots_per_publish_max=rng.randint(2, 6),
        write_batch_bytes=rng.randint(1, 4) * PAGE_BYTES,
        write_batches_max=rng.randint(1, 3),
        writes_tried_max=rng.randint(1, 4),
        write_retry_ns=rng.randint(1, 10),
        expected_blocks_max=rng.randint(4, 16),
    )
    tiers = (
        tier("device", rng.randint(4, 6), region_slots=2),
        tier("host", rng.randint(8, 16), region_slots=rng.choice([2, 4])),
        replace(
            tier("disk", rng.randint(8, 24), region_slots=4),
            write_bytes_per_day=rng.choice([0, 0, 0, 24 * 20 * PAGE_BYTES]),
        ),
    )
    return StoreConfig(
        tiers,
        HOST,
        _random_policies(rng),
        limits,
        read_lease_ns=rng.randint(10, 40),
        write_lease_ns=rng.randint(15, 60),
    )


def _random_policies(rng: Random) -> Policies:
    """Return chain LRU and always to disk half of the time, and else any that there are."""
    by_hits = [PromoteOnHit(hits) for hits in (1, 2, 3)]
    promotions: list[Promotion] = [*by_hits, PromoteByCost(), NeverPromote()]
    return Policies(
        eviction=rng.choice([ChainLRU] * len(EVICTION) + [*EVICTION.values()]),
        admission=rng.choice([AlwaysAdmit] * len(ADMISSION) + [*ADMISSION.values()]),
        promotion=rng.choice(promotions),
        prefetch=rng.choice([*PREFETCH.values()]),
    )


class World:
    """One store, and all that happens to it."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.seed = seed
        self.now_ns = 0
        self.store = Store(random_config(self.rng))
        mapped = [tier.mapped for tier in self.store.config.tiers]
        self.mediums = Mediums(self.rng, mapped)
        self.sessions: dict[int, Session] = {}
        self.sealed: dict[tuple[int, BlockKey], set[int]] = {}
        self.asked: dict[int, Request] = {}
        self.steps = 0
        self.recoveries = 0
        self.recent: deque[tuple[int, ev.Event]] = deque(maxlen=_EVENTS_KEPT)
        self._requests = count(1)
        self._order = count()
        self._pending: list[tuple[int, int, Callable[[], None]]] = []
        self._mover = Mover(self.rng, self.mediums, self.after, self.feed, self._note_stall)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """Add the last events to an error: with the seed they are all that it takes."""
        if error is None:
            return
        error.add_note(f"seed {self.seed}, step {self.steps}, {self.now_ns} ns; the last events:")
        for now_ns, event in self.recent:
            error.add_note(f"{now_ns:6} {event}")

    # ---- time

    def after(self, delay_ns: int, end: Callable[[], None]) -> None:
        """Have `end` called when so much time has passed."""
        heappush(self._pending, (self.now_ns + delay_ns, next(self._order), end))

    def run_until(self, when_ns: int) -> None:
        """Let everything happen that is due up to `when_ns`."""
        while (due_ns := self._next_ns()) is not None and due_ns <= when_ns:
            self._advance(due_ns)
        self.now_ns = max(self.now_ns, when_ns)

    def run_out(self) -> None:
        """Let everything happen until nothing is left that could."""
        while (due_ns := self._next_ns()) is not None:
            self._advance(due_ns)

    def _next_ns(self) -> int | None:
        wakeup_ns = self.store.next_wakeup_ns()
        times = [self._pending[0][0]] if self._pending else []
        return min(times + ([] if wakeup_ns is None else [wakeup_ns]), default=None)

    def _advance(self, due_ns: int) -> None:
        self.now_ns = max(self.now_ns, due_ns)
        if self._pending and self._pending[0][0] <= self.now_ns:
            heappop(self._pending)[2]()
            return
        self.feed(ev.Tick())
        wakeup_ns = self.store.next_wakeup_ns()
        assert wakeup_ns is None or wakeup_ns > self.now_ns, "a tick does not get on"

    # ---- the store

    def next_request(self) -> int:
        """Return a number for a request."""
        return next(self._requests)

    def feed(self, event: ev.Event) -> None:
        """Let the store handle an event, do what it says, and check that all is well."""
        self.steps += 1
        assert self.steps < _STEPS_MAX, "it does not end"
        self.recent.append((self.now_ns, event))
        if isinstance(event, Request):
            self.asked[event.request] = event
        for action in self.store.handle(event, self.now_ns):
            self._run(action)
        if isinstance(event, ev.CloseSession):
            self.asked = {n: a for n, a in self.asked.items() if a.session != event.session}
        laws.check(self.store)
        self._check_waiting(event)

    def _check_waiting(self, event: ev.Event) -> None:
        """Whatever is not answered yet may wait, for something that can come, and not too long."""
        for asked in self.asked.values():
            if isinstance(asked, ev.Fetch):
                written = self.store.incoming.by_key.keys() & set(asked.keys)
                assert written, ("waits for nobody", asked)
        # Others may be due as well, but are only answered at the next tick.
        for asked in self.asked.values():
            if isinstance(event, ev.Tick) or asked is event:
                assert isinstance(asked, Waits), ("not answered", asked)
                assert asked.wait_until_ns > self.now_ns, ("not answered in time", asked)

    def _run(self, action: ev.Action) -> None:
        match action:
            case ev.Reply(session, request, body):
                asked = self.asked.pop(request)
                assert asked.session == session, ("answered another", action)
                if isinstance(asked, ev.Persist) and isinstance(body, ev.Persisted):
                    self._mover.check_durable(asked.namespace, asked.keys[: body.blocks])
                self.sessions[session].receive(action)
            case ev.Landed(session):
                self.sessions[session].receive(action)
            case ev.SetFence(session, fence, lease):
                if session in self.sessions:
                    self.sessions[session].fences[fence] = lease
            case ev.StartMoves(_, moves):
                self._mover.start(moves)
            case ev.PrepareRegion(namespace, tier, region):
                slots = self.store.room.spaces[namespace][tier].region_slots
                self.mediums.prepare(tier, namespace, region, slots)
            case ev.ReclaimRegion():
                self.mediums.reclaim(action.tier, action.namespace, action.region)
                back = ev.RegionReclaimed(action.namespace, action.tier, action.region)
                self.after(self.rng.randint(1, 10), lambda: self.feed(back))
            case ev.Defer(event):
                self.after(self.rng.randint(0, 2), lambda: self.feed(event))
            case ev.DropRecords():
                self._mover.drop_records(action.namespace, action.keys)

    # ---- faults

    def begin_faults(self) -> None:
        """From now on things go wrong, as often as the seed says."""
        ratio = self.rng.choice([0.0, 0.02, 0.1])
        self.mediums.faults = FaultRatios(*[ratio] * 6)

    def take_offline(self, tier: int) -> None:
        """Have a tier stop answering, which is noticed a little later, and come back in time."""
        if tier in self.mediums.offline:
            return
        self.mediums.offline.add(tier)
        self.after(self.rng.randint(0, 5), lambda: self._notice_fault(tier))
        self.after(self.rng.randint(10, 150), lambda: self._bring_back(tier))

    def take_read_only(self, tier: int) -> None:
        """Have a tier refuse all writes, which is noticed a little later, and come back in time."""
        if tier in self.mediums.offline | self.mediums.read_only:
            return
        self.mediums.read_only.add(tier)
        self.after(self.rng.randint(0, 5), lambda: self._notice_fault(tier))
        self.after(self.rng.randint(10, 150), lambda: self._bring_back(tier))

    def _note_stall(self, tier: int) -> None:
        """Have a tier that did not answer be offline for a while, though it may answer others."""
        if tier not in self.mediums.offline | self.mediums.read_only:
            self.mediums.offline.add(tier)
            self._notice_fault(tier)
            self.after(self.rng.randint(1, 50), lambda: self._bring_back(tier))

    def _notice_fault(self, tier: int) -> None:
        if tier in self.mediums.offline:
            self.feed(ev.TierFaulted(tier, "EIO"))
        elif tier in self.mediums.read_only:
            self.feed(ev.TierReadOnly(tier, "ENOSPC"))

    def end_faults(self) -> None:
        """From now on nothing goes wrong, and every tier answers. What is spoilt stays so."""
        self.mediums.faults = NO_FAULTS
        self.mediums.read_only |= self.mediums.offline
        self.mediums.offline.clear()
        for faulted in sorted(self.mediums.read_only):
            self._bring_back(faulted)

    def _bring_back(self, tier: int) -> None:
        """Have a tier answer again; one that was offline may take no writes for a while yet."""
        mediums = self.mediums
        if tier in mediums.offline and self.rng.random() < 0.3:
            mediums.offline.remove(tier)
            mediums.read_only.add(tier)
            self.feed(ev.TierReadOnly(tier, "ENOSPC"))
            self.after(self.rng.randint(10, 150), lambda: self._bring_back(tier))
        elif tier in mediums.offline | mediums.read_only:
            mediums.offline.discard(tier)
            mediums.read_only.discard(tier)
            self.recoveries += 1
            self.feed(ev.TierRecovered(tier))

    # ---- the scrubber

    def scrub(self) -> None:
        """Read whatever is on disk, for no client, and report what is corrupt, each by itself."""
        for block in self.store.catalog.blocks.values():
            slot = block.slots[DISK]
            if slot is None:
                continue
            if self.mediums.verified((DISK, block.namespace, slot), block.key) is None:
                found = ev.CopyCorrupt(block.key, DISK, slot)
                self.after(self.rng.randint(0, 5), partial(self.feed, found))

    # ---- the end

    def check_idle(self) -> None:
        """When all faults and clients are gone, nothing is held, queued or on its way."""
        store = self.store
        assert all(store.moves.online), ("a tier is not used again", store.moves.online)
        assert all(store.moves.writable), ("a tier is not used again", store.moves.writable)
        assert not self.asked, ("never answered", self.asked)
        assert not store.leases.leases, ("leases that do not end", store.leases.leases)
        assert not store.incoming.by_key, ("never given up", store.incoming.by_key)
        assert not store.moves.by_number, ("moves that do not end", store.moves.by_number)
        assert not store.room.apart, ("set apart for ever", store.room.apart)
        assert len(store.waiting) == 0, "requests that wait for ever"
        assert len(store.persisting) == 0, "requests that wait for ever"
        assert len(store.expecting.returns) == 0, "expected of clients that are gone"
        assert not any(store.room.queued), ("never written", store.room.queued)
        for namespace, spaces in enumerate(store.room.spaces):
            for number, space in enumerate(spaces):
                blocks = store.catalog.blocks.values()
                held = sum(b.namespace == namespace and b.slots[number] is not None for b in blocks)
                lent = len(space.regions) * space.region_slots
                assert not space.returning, ("never given back", namespace, number)
                draining = any(region.draining for region in space.regions.values())
                assert draining or held + space.free == lent, ("slots lost", namespace, number)
