"""Makes room: lends regions, evicts by policy, and keeps every namespace its share."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import Final

from tierd.control.catalog import Block, Catalog, count_down
from tierd.control.config import StoreConfig
from tierd.control.events import DropRecords, Outbox, PrepareRegion, ReclaimRegion
from tierd.control.policies import Eviction, Listener
from tierd.control.slots import SlotSpace, TierBudget
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass

_SKIPPED_MAX = 1024
"""Victims passed over in one search. Past that the tier is busy, and the caller gets less."""

_UNKNOWN: Final[BlockClass] = "unknown"

_LEFT_RATIO: Final = 1 / 16
"""Of a tier, what is not lent before it is needed, for namespaces to come."""

_RELAXED_MAX = 256
"""Copies that `relax` evicts at once: some half a millisecond."""


class Room:
    """All slots of all tiers, and the one place that evicts.

    `queued[t]` are the blocks of tier t that are to be written to tier t + 1, next first, and how
    often that has failed: they are not evicted before it is done. `moving` are the blocks under
    way, and to which tier. What is queued or moving is due in its target. A policy tracks the
    blocks that are in its tier or due there, less the pinned ones: a chain then has its order
    before it lands, and needs no look at its ancestors when it does.

    `apart` are slots that hold wrong bytes, which may be read in place until nobody leases the
    block.
    """

    def __init__(self, config: StoreConfig, catalog: Catalog, outbox: Outbox) -> None:
        self._config = config
        self._catalog = catalog
        self._outbox = outbox
        self.budgets = [TierBudget(tier.bytes_max) for tier in config.tiers]
        self.spaces: list[list[SlotSpace]] = []
        self.policies: list[list[Eviction]] = []
        self._listeners: list[list[Listener]] = []
        self.queued: list[OrderedDict[BlockKey, int]] = [OrderedDict() for _ in config.tiers]
        self.moving: dict[BlockKey, int] = {}
        self.apart: list[tuple[Block, int, int]] = []
        self.evicted = Counter[int]()
        self.dropped = 0

    def add_namespace(self, block_bytes: int, region_slots: Sequence[int]) -> None:
        """Add the spaces of one more namespace, numbered as in the catalog."""
        rows = zip(self._config.tiers, self.budgets, region_slots, strict=True)
        spaces = []
        for tier, budget, slots in rows:
            slot_bytes = block_bytes + tier.header_bytes
            region_bytes = slots * slot_bytes + tier.header_bytes
            spaces.append(SlotSpace(budget, slot_bytes, slots, region_bytes, tier.stripes))
        self.spaces.append(spaces)
        policies = [self._config.policies.eviction() for _ in self._config.tiers]
        self.policies.append(policies)
        self._listeners.append([Listener(policy) for policy in policies])

    def region_slots(self, tier: int, block_bytes: int) -> int:
        """Return how many slots a region of a new namespace has."""
        config = self._config.tiers[tier]
        room = min(config.region_bytes, config.bytes_max) - config.header_bytes
        return max(1, room // (block_bytes + config.header_bytes))

    def take(self, namespace: int, tier: int, wanted: int) -> list[int]:
        """Take up to `wanted` slots, evicting what the policy gives up; fewer if it must."""
        space = self.spaces[namespace][tier]
        while space.free < wanted and self._lend(namespace, tier):
            pass
        if space.free < wanted and self._over_share(namespace, tier) < 0:
            self._reclaim_elsewhere(namespace, tier, wanted - space.free)
        # More than once, since a victim in a draining region leaves no slot to take.
        while space.free < wanted:
            victims = self._victims(namespace, tier, clean_only=False)
            if not self._evict(victims, tier, wanted - space.free):
                break
        return space.take(wanted)

    def touch(self, namespace: int, blocks: Sequence[Block]) -> None:
        """Note that `blocks` were used, wherever they are or are due.

        They are of one chain, root first; or apart, and then the first are to stay longest.
        """
        for chain in _chains(blocks):
            self.touch_in_order(namespace, chain)

    def touch_in_order(self, namespace: int, blocks: Sequence[Block]) -> None:
        """Note that `blocks`, each after its ancestors, were used, the last ones longest ago."""
        for tier, policy in enumerate(self.policies[namespace]):
            policy.touch(self._tracked(blocks, tier))

    def extend(self, namespace: int, blocks: Sequence[Block]) -> None:
        """Note that the last of `blocks` came or are due somewhere.

        They are of one chain, root first; or apart, and then all of them came.
        """
        for chain in _chains(blocks):
            for tier, listener in enumerate(self._listeners[namespace]):
                listener.extend(self._tracked(chain, tier))

    def note(
        self,
        namespace: int,
        blocks: Sequence[Block],
        classes: Sequence[BlockClass],
        state: AgentState,
    ) -> None:
        """Tell the policies what `blocks` of one chain, just touched, are, and what is to come."""
        kinds: list[BlockClass] = [*classes, *repeat(_UNKNOWN, len(blocks) - len(classes))]
        for tier, listener in enumerate(self._listeners[namespace]):
            tracked = set(self._tracked(blocks, tier))
            rows = [row for row in zip(blocks, kinds, strict=False) if row[0].key in tracked]
            listener.note([block.key for block, _ in rows], [kind for _, kind in rows], state)

    def missed(self, namespace: int, tier: int, keys: Sequence[BlockKey]) -> None:
        """Note that `keys` are not in `tier`, before `take` makes room for them."""
        self._listeners[namespace][tier].missed(keys)

    def untrack(self, namespace: int, key: BlockKey, tier: int) -> None:
        """Have the policy forget a block, unless that is in `tier` or due there."""
        block = self._catalog.blocks.get(key)
        if (block is None or block.slots[tier] is None) and not self.is_due(key, tier):
            self.policies[namespace][tier].forget(key)

    def is_due(self, key: BlockKey, tier: int) -> bool:
        """Say whether a copy is to come to `tier`."""
        return self.moving.get(key) == tier or (tier > 0 and key in self.queued[tier - 1])

    def pin(self, blocks: Sequence[Block]) -> None:
        """Keep blocks out of the way of every search for victims."""
        for block in blocks:
            self._catalog.pins[block] += 1
            for policy in self.policies[block.namespace]:
                policy.forget(block.key)

    def unpin(self, namespace: int, blocks: Sequence[Block]) -> None:
        """Undo one `pin`."""
        for block in blocks:
            count_down(self._catalog.pins, block)
        self.touch(namespace, blocks)

    def lend_ahead(self, namespace: int, tier: int) -> None:
        """Borrow the namespace's fair share now, so that it is ready before it is needed.

        A little is left for the next namespace to be opened: its first publish is to find room
        before others have given back what is its share.
        """
        space, budget = self.spaces[namespace][tier], self.budgets[tier]
        ahead_bytes_max = int(budget.bytes_max * (1 - _LEFT_RATIO))
        while self._over_share(namespace, tier) + space.region_bytes <= 0:
            left = budget.bytes_lent + space.region_bytes <= ahead_bytes_max
            if not (left or not space.regions) or not self._lend(namespace, tier):
                break
        if not space.regions:
            # All is lent: one region now, so that a first publish finds room.
            self._reclaim_elsewhere(namespace, tier, 1)

    def lend_ahead_to_poorest(self, tier: int) -> None:
        """Lend what came back to the namespace furthest below its share."""
        self.lend_ahead(min(range(len(self.spaces)), key=lambda n: self._over_share(n, tier)), tier)

    def rebalance(self, tier: int) -> None:
        """Have namespaces over their share give back the regions that they do not use."""
        for number, spaces in enumerate(self.spaces):
            space = spaces[tier]
            unused = _unused(space)
            while unused and self._over_share(number, tier) > 0:
                self._retire(number, tier, unused.pop())

    def end_return(self, namespace: int, tier: int, region: int) -> None:
        """Note that the medium has the bytes of a region back."""
        self.spaces[namespace][tier].end_return(region)

    def give(self, namespace: int, tier: int, slot: int) -> None:
        """Take a slot back, and with it the region if that was waiting to be empty."""
        emptied = self.spaces[namespace][tier].give(slot)
        if emptied is not None:
            self._return(namespace, tier, emptied)

    def add_copy(
        self, namespace: int, key: BlockKey, parent: BlockKey, tier: int, slot: int
    ) -> Block:
        """Note that a taken slot holds a copy. The policy is told by the next `touch`."""
        tiers = len(self._config.tiers)
        block = self._catalog.add_copy(namespace, key, parent, tier, slot, tiers)
        self.spaces[namespace][tier].fill(slot, block.key)
        return block

    def remove_copy(self, block: Block, tier: int) -> None:
        """Give up one copy of a block that nobody holds there."""
        self.give(block.namespace, tier, self._forget_copy(block, tier))

    def set_apart(self, block: Block, tier: int) -> None:
        """Give up one copy of a block, but its slot only when nobody leases the block."""
        slot = self._forget_copy(block, tier)
        self.spaces[block.namespace][tier].fill(slot, None)
        self.apart.append((block, tier, slot))

    def give_apart(self) -> None:
        """Take back the slots set apart whose blocks nobody leases any more."""
        readers = self._catalog.readers
        idle = [entry for entry in self.apart if entry[0] not in readers]
        self.apart = [entry for entry in self.apart if entry[0] in readers]
        for block, tier, slot in idle:
            self.give(block.namespace, tier, slot)

    def clear_queue(self, tier: int) -> None:
        """Give up writing anything from `tier` to the next."""
        keys = list(self.queued[tier])
        self.queued[tier].clear()
        for key in keys:
            self.untrack(self._catalog.blocks[key].namespace, key, tier + 1)

    def relax(self, namespace: int, tier: int) -> None:
        """Above the high watermark evict what has a colder copy, towards the low one."""
        budget = self.budgets[tier]
        used = sum(spaces[tier].used * spaces[tier].slot_bytes for spaces in self.spaces)
        if used <= budget.bytes_max * self._config.used_ratio_high:
            return
        excess = used - int(budget.bytes_max * self._config.used_ratio_low)
        count = min(_RELAXED_MAX, -(-excess // self.spaces[namespace][tier].slot_bytes))
        self._evict(self._victims(namespace, tier, clean_only=True), tier, count)

    def _tracked(self, blocks: Sequence[Block], tier: int) -> list[BlockKey]:
        pins = self._catalog.pins
        return [
            block.key
            for block in blocks
            if (block.slots[tier] is not None or self.is_due(block.key, tier))
            and not (pins and block in pins)
        ]

    def _lend(self, namespace: int, tier: int) -> bool:
        region = self.spaces[namespace][tier].lend()
        if region is None:
            return False
        self._outbox.add(PrepareRegion(namespace, tier, region))
        return True

    def _forget_copy(self, block: Block, tier: int) -> int:
        slot = self._catalog.remove_copy(block, tier)
        self.untrack(block.namespace, block.key, tier)
        if block.key in self.queued[tier]:
            del self.queued[tier][block.key]
            self.untrack(block.namespace, block.key, tier + 1)
        if tier > self._config.entry:
            self._outbox.add(DropRecords(block.namespace, tier, (block.key,)))
        return slot

    def _evict(self, victims: Iterator[Block], tier: int, count: int) -> int:
        # A policy is not changed while its victims are read: choose first, then remove.
        chosen = list(islice(victims, count))
        for block in chosen:
            self._evict_copy(block, tier)
        return len(chosen)

    def _evict_copy(self, block: Block, tier: int) -> None:
        assert block not in self._catalog.readers, block.key
        self.evicted[tier] += 1
        self._listeners[block.namespace][tier].evicted(block.key)
        self.remove_copy(block, tier)
        self.dropped += block.key not in self._catalog.blocks

    def _victims(self, namespace: int, tier: int, *, clean_only: bool) -> Iterator[Block]:
        skipped = 0
        for key in self.policies[namespace][tier].victims():
            block = self._catalog.blocks[key]
            if not self._is_busy(block, tier) and not (clean_only and block.coldest() <= tier):
                yield block
                continue
            skipped += 1
            if skipped > _SKIPPED_MAX:
                return

    def _is_busy(self, block: Block, tier: int) -> bool:
        """Say whether a block must stay for now. If it is to be written first, that comes next."""
        if block.key in self.moving or block.slots[tier] is None:
            return True
        if block in self._catalog.readers:
            return True
        if block in self._catalog.children and block.is_last(tier):
            return True
        queue = self.queued[tier]
        if block.key not in queue:
            return False
        queue.move_to_end(block.key, last=False)
        return True

    def _share(self, tier: int) -> int:
        return self.budgets[tier].bytes_max // max(1, len(self.spaces))

    def _region_bytes(self, namespace: int, tier: int) -> int:
        return self.spaces[namespace][tier].region_bytes

    def _over_share(self, namespace: int, tier: int) -> int:
        return self.spaces[namespace][tier].bytes_staying - self._share(tier)

    def _reclaim_elsewhere(self, namespace: int, tier: int, slots: int) -> None:
        """Take back regions, until there will be enough for `slots` or for the fair share.

        They come from whoever is furthest over its share, the coldest first, and are there to
        lend when the medium has their bytes back.
        """
        space = self.spaces[namespace][tier]
        short = -self._over_share(namespace, tier) // space.region_bytes
        regions = max(1, min(-(-slots // space.region_slots), short))
        missing = regions * space.region_bytes - self._coming_back(tier)
        others = [number for number in range(len(self.spaces)) if number != namespace]
        while missing > 0 and others:
            richest = max(others, key=lambda number: self._over_share(number, tier))
            region = self._coldest_region(richest, tier)
            if self._over_share(richest, tier) <= 0 or region is None:
                return
            self._retire(richest, tier, region)
            self._empty(richest, tier, region)
            missing -= self._region_bytes(richest, tier)

    def _coming_back(self, tier: int) -> int:
        """Return the bytes on their way back, having gone on with those that still are in use."""
        coming = 0
        for number, spaces in enumerate(self.spaces):
            space = spaces[tier]
            coming += space.bytes_leaving
            for region in sorted(space.draining):
                self._empty(number, tier, region)
        return coming

    def _coldest_region(self, namespace: int, tier: int) -> int | None:
        space = self.spaces[namespace][tier]
        if unused := _unused(space):
            return unused[-1]
        slots = (block.slots[tier] for block in self._victims(namespace, tier, clean_only=False))
        regions = (slot // space.region_slots for slot in slots if slot is not None)
        return next((region for region in regions if region not in space.draining), None)

    def _empty(self, namespace: int, tier: int, region: int) -> None:
        """Evict what can be of a draining region. What is busy now goes in a later call."""
        known = self.spaces[namespace][tier].regions.get(region)
        for key in list(known.keys) if known else ():
            if key is not None and not self._is_busy(self._catalog.blocks[key], tier):
                self._evict_copy(self._catalog.blocks[key], tier)

    def _retire(self, namespace: int, tier: int, region: int) -> None:
        """Hand out no more of a region, and give it back as soon as it is empty."""
        if self.spaces[namespace][tier].drain(region):
            self._return(namespace, tier, region)

    def _return(self, namespace: int, tier: int, region: int) -> None:
        self.spaces[namespace][tier].start_return(region)
        self._outbox.add(ReclaimRegion(namespace, tier, region))


def _chains(blocks: Sequence[Block]) -> Iterator[Sequence[Block]]:
    """Yield the chains that `blocks` are, in the order in which a policy is to hear of them.

    Neighbours in a chain have different parents, so a look at two tells.
    """
    if len(blocks) > 1 and blocks[0].parent == blocks[1].parent:
        yield from ([block] for block in reversed(blocks))
    else:
        yield blocks


def _unused(space: SlotSpace) -> list[int]:
    """Return the regions that are wholly free, and not draining, in ascending order."""
    return sorted(n for n in space.with_room if space.regions[n].used == 0)
