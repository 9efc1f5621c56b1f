"""The shell around the store: the one place where its actions meet the world.

Events come from sessions, the mover and the clock; each is handled in one synchronous step, and
the actions that it leads to are run in order before the next. So there are no locks.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any, Protocol

from tierd.control import events as ev
from tierd.control.catalog import Namespace
from tierd.control.store import Store
from tierd.core.errors import InvalidRequest, TierOffline
from tierd.core.layouts import LayoutSpec
from tierd.service.wire import landed_to_wire, reply_to_wire
from tierd.tiers.base import Space, SpaceSpec, Tier
from tierd.transfer.mover import Mover, SpaceRow
from tierd_proto.v1 import tierd_pb2 as pb

log = logging.getLogger("tierd.shell")


_NEVER_NS = 1 << 63
_RECLAIM_RETRY_S = 1.0


class SessionPort(Protocol):
    """Where the shell leaves what a session must be told."""

    namespaces: set[int]

    def send(self, message: pb.ServerMessage) -> None: ...

    def set_fence(self, fence: int, lease: int) -> None: ...


class Shell:
    """Feeds the store and runs what it asks for.

    `remember(namespace, layout, region_slots)` is called before a new namespace is used, to
    make it survive a restart.
    """

    def __init__(
        self,
        store: Store,
        tiers: Sequence[Tier],
        remember: Callable[[str, LayoutSpec, Sequence[int]], None],
    ) -> None:
        self.store = store
        self.tiers = tiers
        self.rows: list[SpaceRow] = []
        self.sessions: dict[int, SessionPort] = {}
        self.mover: Mover
        self._remember = remember
        self._queue: deque[ev.Event] = deque()
        self._feeding = False
        self._wakeup: asyncio.TimerHandle | None = None
        self._wakeup_ns = _NEVER_NS
        self._actions: dict[type, Callable[[Any], None]] = {
            ev.Reply: self._reply,
            ev.Landed: self._landed,
            ev.SetFence: self._set_fence,
            ev.StartMoves: lambda action: self.mover.start(action),
            ev.Urge: lambda action: self.mover.urge(action),
            ev.DropRecords: lambda action: self.mover.drop_records(action),
            ev.PrepareRegion: self._prepare_region,
            ev.ReclaimRegion: self._reclaim_region,
            ev.Defer: self._defer,
        }
        self._reclaiming: set[asyncio.Task[None]] = set()

    def feed(self, event: ev.Event) -> None:
        """Let the store handle `event`, and run what follows from it, now."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                self._step(self._queue.popleft())
        finally:
            self._feeding = False
        self._schedule_wakeup()

    def space(self, namespace: int, tier: int) -> Space:
        return self.rows[namespace].spaces[tier]

    def checked_namespace(self, session: SessionPort, number: int) -> Namespace:
        """Return a namespace that the session has opened.

        Raises:
            InvalidRequest: it has not.
        """
        if number not in session.namespaces:
            raise InvalidRequest("namespace", str(number), "open it in this session first")
        return self.store.catalog.namespaces[number]

    def _step(self, event: ev.Event) -> None:
        actions = self.store.handle(event, monotonic_ns())
        while len(self.rows) < len(self.store.catalog.namespaces):
            self._add_spaces(self.store.catalog.namespaces[len(self.rows)])
        for action in actions:
            self._actions[type(action)](action)

    def _add_spaces(self, namespace: Namespace) -> None:
        layout = namespace.layout
        slots = [space.region_slots for space in self.store.room.spaces[namespace.number]]
        self._remember(namespace.name, layout, slots)
        pairs = zip(self.tiers, slots, strict=True)
        spaces = [tier.space(SpaceSpec(layout, count, namespace.name)) for tier, count in pairs]
        entry = spaces[self.store.config.entry]
        self.rows.append(SpaceRow(layout.fingerprint, entry, spaces))  # type: ignore[arg-type]

    def _reply(self, action: ev.Reply) -> None:
        session = self.sessions.get(action.session)
        if session is None:
            return
        region_slots: list[int] = []
        if isinstance(action.body, ev.NamespaceOpened):
            session.namespaces.add(action.body.namespace)
            region_slots = [
                space.region_slots for space in self.store.room.spaces[action.body.namespace]
            ]
        if isinstance(action.body, ev.Fetched):
            for run in action.body.runs:
                if run.tier > self.store.config.entry and not run.pending:
                    self.mover.expect_demand(run.tier)
        session.send(reply_to_wire(action, region_slots))

    def _landed(self, action: ev.Landed) -> None:
        session = self.sessions.get(action.session)
        if session is not None:
            session.send(landed_to_wire(action))

    def _defer(self, action: ev.Defer) -> None:
        # Behind the write of the reply, which is what somebody waits for.
        asyncio.get_running_loop().call_soon(self.feed, action.event)

    def _set_fence(self, action: ev.SetFence) -> None:
        session = self.sessions.get(action.session)
        if session is not None:
            session.set_fence(action.fence, action.lease)

    def _prepare_region(self, action: ev.PrepareRegion) -> None:
        self.space(action.namespace, action.tier).prepare(action.region)

    def _reclaim_region(self, action: ev.ReclaimRegion) -> None:
        task = asyncio.get_running_loop().create_task(self._reclaim(action))
        self._reclaiming.add(task)
        task.add_done_callback(self._reclaiming.discard)

    async def _reclaim(self, action: ev.ReclaimRegion) -> None:
        while True:
            try:
                await self.space(action.namespace, action.tier).reclaim(action.region)
                break
            except TierOffline as error:
                # Its bytes count as lent until the medium has them back.
                log.warning("region %d of tier %d: %s", action.region, action.tier, error)
                await asyncio.sleep(_RECLAIM_RETRY_S)
        self.feed(ev.RegionReclaimed(action.namespace, action.tier, action.region))

    def _schedule_wakeup(self) -> None:
        """Have the store called again when it wants to be, or a little before."""
        when_ns = self.store.next_wakeup_ns()
        if when_ns is None or when_ns >= self._wakeup_ns:
            return
        if self._wakeup is not None:
            self._wakeup.cancel()
        self._wakeup_ns = when_ns
        delay_s = max(0, when_ns - monotonic_ns()) / 1e9
        self._wakeup = asyncio.get_running_loop().call_later(delay_s, self._wake_up)

    def _wake_up(self) -> None:
        self._wakeup_ns = _NEVER_NS
        self.feed(ev.Tick())
