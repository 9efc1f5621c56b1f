"""Small stores: a few slots a tier, and times that are small whole numbers."""

from collections import deque
from itertools import count
from typing import Literal, TypeVar

from tierd.control import events as ev
from tierd.control import laws
from tierd.control.config import Limits, StoreConfig, TierConfig
from tierd.control.policies import Policies
from tierd.control.store import Store
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.units import PAGE_BYTES
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.promotion import PromoteOnHit

T = TypeVar("T")

READ_LEASE_NS = 20
WRITE_LEASE_NS = 30

SIMPLE = Policies(ChainLRU, AlwaysAdmit, PromoteOnHit(hits_min=2))


def tier(name: str, slots: int, region_slots: int = 4) -> TierConfig:
    """Return a tier of so many slots of one page. Only `disk` is not mapped."""
    return TierConfig(name, slots * PAGE_BYTES, region_slots * PAGE_BYTES, mapped=name != "disk")


def store_config(
    *tiers: TierConfig, limits: Limits | None = None, policies: Policies = SIMPLE
) -> StoreConfig:
    """Return a configuration whose entry tier is `host`."""
    entry = [tier.name for tier in tiers].index("host")
    limits = limits or Limits(write_batch_bytes=2 * PAGE_BYTES, write_batches_max=2)
    return StoreConfig(tiers, entry, policies, limits, READ_LEASE_NS, WRITE_LEASE_NS)


def page_layout(model: str, shards: int = 1, block_tokens: int = 4) -> LayoutSpec:
    """Return a layout with blocks of one page a shard."""
    group = LayerGroup(layers=1, kv_heads=1, head_size=8)
    return LayoutSpec(model, (group,), block_tokens=block_tokens, shards=shards)


def spelled(text: str) -> list[BlockKey]:
    """Return the chain to `text`: a key is spelled as its path from the root."""
    return [BlockKey(text[:depth].encode()) for depth in range(1, len(text) + 1)]


class Driver:
    """Feeds a store by hand, checks its laws at every step, and keeps what it says.

    Session 1 is a remote client. `moves` are those under way, in the order of their start.
    """

    def __init__(self, config: StoreConfig, layout: LayoutSpec | None = None) -> None:
        self.store = Store(config)
        self.now_ns = 0
        self.actions: list[ev.Action] = []
        self.moves: dict[int, ev.Move] = {}
        self._requests = count(1)
        if layout is not None:
            self.feed(ev.OpenSession(1, None))
            self.open(layout)

    def feed(self, event: ev.Event) -> list[ev.Action]:
        """Return the actions that follow from `event`, those deferred included."""
        self.actions = []
        queue = deque([event])
        while queue:
            actions = self.store.handle(queue.popleft(), self.now_ns)
            laws.check(self.store)
            self.actions += actions
            for action in actions:
                if isinstance(action, ev.Defer):
                    queue.append(action.event)
                elif isinstance(action, ev.StartMoves):
                    self.moves.update((move.move, move) for move in action.moves)
        return self.actions

    def of(self, kind: type[T]) -> list[T]:
        """Return the actions of one kind that followed from the last event."""
        return [action for action in self.actions if isinstance(action, kind)]

    def answers(self) -> list[ev.ReplyBody]:
        return [reply.body for reply in self.of(ev.Reply)]

    def ask(self, event: ev.Event, kind: type[T]) -> T:
        """Return the one answer to `event`, which is of this kind."""
        self.feed(event)
        [answer] = self.answers()
        assert isinstance(answer, kind), answer
        return answer

    # ---- requests

    def request(self) -> int:
        return next(self._requests)

    def open(self, layout: LayoutSpec, name: str = "") -> int:
        event = ev.OpenNamespace(1, self.request(), name, layout)
        return self.ask(event, ev.NamespaceOpened).namespace

    def fetch_event(
        self,
        text: str,
        session: int = 1,
        wait_ns: int = 0,
        part: int | None = None,
        of: int = 0,
        stage_blocks: int = ev.STAGE_ALL,
        first: int = 0,
    ) -> ev.Fetch:
        until_ns = self.now_ns + wait_ns
        keys = spelled(text)
        return ev.Fetch(session, self.request(), of, keys, until_ns, part, stage_blocks, first)

    def fetch(
        self,
        text: str,
        session: int = 1,
        part: int | None = None,
        of: int = 0,
        stage_blocks: int = ev.STAGE_ALL,
    ) -> ev.Fetched:
        event = self.fetch_event(text, session, part=part, of=of, stage_blocks=stage_blocks)
        return self.ask(event, ev.Fetched)

    def reserve_event(
        self, text: str, session: int = 1, part: int = 0, wait_ns: int = 0, of: int = 0
    ) -> ev.Reserve:
        until_ns = self.now_ns + wait_ns
        return ev.Reserve(session, self.request(), of, spelled(text), part, until_ns)

    def reserve(self, text: str, session: int = 1, part: int = 0, of: int = 0) -> ev.Reserved:
        return self.ask(self.reserve_event(text, session, part, of=of), ev.Reserved)

    def seal(self, lease: int, blocks: int, session: int = 1) -> int:
        return self.ask(ev.Seal(session, self.request(), lease, blocks), ev.Sealed).blocks

    def publish(self, text: str, of: int = 0) -> int:
        """Publish what is missing of a chain; return how many blocks that was."""
        reserved = self.reserve(text, of=of)
        granted = sum(grant.count for grant in reserved.grants)
        return self.seal(reserved.lease, granted) if granted else 0

    def release(self, lease: int, session: int = 1) -> list[ev.Action]:
        return self.feed(ev.Release(session, lease))

    # ---- the world

    def end_moves(self, fault: Literal["source", "target"] | None = None) -> list[ev.Move]:
        """End all moves that are under way now, and return them."""
        moves, self.moves = list(self.moves.values()), {}
        self.feed(ev.MovesDone([ev.MoveDone(move.move, fault) for move in moves]))
        return moves

    def settle(self) -> None:
        """End moves, and give back regions, until there are none."""
        while True:
            reclaims = self.of(ev.ReclaimRegion)
            if not reclaims and not self.moves:
                return
            for reclaim in reclaims:
                self.feed(ev.RegionReclaimed(reclaim.namespace, reclaim.tier, reclaim.region))
            if self.moves:
                self.end_moves()

    def pass_time(self, step_ns: int) -> list[ev.Action]:
        self.now_ns += step_ns
        return self.feed(ev.Tick())

    def tiers_of(self, text: str) -> tuple[str, ...]:
        """Return the names of the tiers that have a copy of the last block of a chain."""
        block = self.store.catalog.blocks.get(BlockKey(text.encode()))
        slots = block.slots if block is not None else ()
        tiers = self.store.config.tiers
        return tuple(tiers[at].name for at, slot in enumerate(slots) if slot is not None)
