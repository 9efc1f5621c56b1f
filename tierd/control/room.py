"""Makes room: lends regions, evicts by policy, and keeps every namespace its share."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence

from tierd.control.catalog import Block, Catalog
from tierd.control.config import StoreConfig
from tierd.control.events import DropRecords, Outbox, PrepareRegion, ReclaimRegion
from tierd.control.policies import Eviction
from tierd.control.slots import SlotSpace, TierBudget
from tierd.core.keys import BlockKey

_SKIPPED_MAX = 1024
"""Victims passed over in one search. Past that the tier is busy, and the caller gets less."""


class Room:
    """All slots of all tiers, and the one place that evicts.

    `queued[t]` are the blocks of tier t that are to be written to tier t + 1, next first: they
    are not evicted before that is done. `moving` are the keys of blocks under way.
    """

    def __init__(self, config: StoreConfig, catalog: Catalog, outbox: Outbox) -> None:
        self._config = config
        self._catalog = catalog
        self._outbox = outbox
        self.budgets = [TierBudget(tier.bytes_max) for tier in config.tiers]
        self.spaces: list[list[SlotSpace]] = []
        self.policies: list[list[Eviction]] = []
        self.queued: list[OrderedDict[BlockKey, None]] = [OrderedDict() for _ in config.tiers]
        self.moving: set[BlockKey] = set()
        self.evicted = Counter[int]()
        self.dropped = 0

    def add_namespace(self, block_bytes: int, region_slots: Sequence[int]) -> None:
        """Add the spaces of one more namespace, numbered as in the catalog."""
        self.spaces.append(
            [
                SlotSpace(budget, block_bytes, slots)
                for budget, slots in zip(self.budgets, region_slots, strict=True)
            ]
        )
        self.policies.append([self._config.policies.eviction() for _ in self._config.tiers])

    def region_slots(self, tier: int, block_bytes: int) -> int:
        """Return how many slots a region of a new namespace has."""
        config = self._config.tiers[tier]
        return max(1, min(config.region_bytes, config.bytes_max) // block_bytes)

    def take(self, namespace: int, tier: int, wanted: int) -> list[int]:
        """Take up to `wanted` slots, evicting what the policy gives up; fewer if it must."""
        space = self.spaces[namespace][tier]
        while len(space.free) < wanted and self._lend(namespace, tier):
            pass
        if len(space.free) < wanted and space.budget.bytes_lent:
            if self._over_share(namespace, tier) < 0:
                self._reclaim_elsewhere(namespace, tier)
            self._evict(namespace, tier, wanted - len(space.free))
        return space.take(wanted)

    def lend_ahead(self, namespace: int, tier: int) -> None:
        """Borrow the namespace's fair share now, so that it is ready before it is needed."""
        while self._over_share(namespace, tier) + self._region_bytes(namespace, tier) <= 0:
            if not self._lend(namespace, tier):
                return

    def lend_ahead_to_poorest(self, tier: int) -> None:
        """Lend what came back to the namespace furthest below its share."""
        self.lend_ahead(min(range(len(self.spaces)), key=lambda n: self._over_share(n, tier)), tier)

    def rebalance(self, tier: int) -> None:
        """Have namespaces over their share give back the regions that they do not use."""
        for number, spaces in enumerate(self.spaces):
            space = spaces[tier]
            unused = [n for n, region in space.regions.items() if region.used == 0]
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

    def remove_copy(self, block: Block, tier: int) -> None:
        """Give up one copy of a block that nobody holds there."""
        slot = self._catalog.remove_copy(block, tier)
        self.policies[block.namespace][tier].forget(block.key)
        self.queued[tier].pop(block.key, None)
        if tier > self._config.entry:
            self._outbox.add(DropRecords(block.namespace, tier, (block.key,)))
        self.give(block.namespace, tier, slot)

    def relax(self, namespace: int, tier: int) -> None:
        """Above the high watermark evict what has a colder copy, down to the low one."""
        budget = self.budgets[tier]
        space = self.spaces[namespace][tier]
        used = sum(spaces[tier].used * spaces[tier].slot_bytes for spaces in self.spaces)
        if used <= budget.bytes_max * self._config.used_ratio_high:
            return
        excess = used - int(budget.bytes_max * self._config.used_ratio_low)
        count = -(-excess // space.slot_bytes)
        self._remove_all(self._victims(namespace, tier, clean_only=True), tier, count)

    def _lend(self, namespace: int, tier: int) -> bool:
        region = self.spaces[namespace][tier].lend()
        if region is None:
            return False
        self._outbox.add(PrepareRegion(namespace, tier, region))
        return True

    def _evict(self, namespace: int, tier: int, count: int) -> None:
        self._remove_all(self._victims(namespace, tier, clean_only=False), tier, count)

    def _remove_all(self, victims: Iterator[Block], tier: int, count: int) -> None:
        # A policy is not changed while its victims are read: choose first, then remove.
        chosen = [block for _, block in zip(range(count), victims, strict=False)]
        for block in chosen:
            assert block.leases == 0, block.key
            self.evicted[tier] += 1
            self.remove_copy(block, tier)
            self.dropped += block.key not in self._catalog.blocks

    def _victims(self, namespace: int, tier: int, *, clean_only: bool) -> Iterator[Block]:
        queue = self.queued[tier]
        skipped = 0
        for key in self.policies[namespace][tier].victims():
            block = self._catalog.blocks[key]
            busy = block.leases > 0 or key in self.moving or key in queue
            if busy or (clean_only and block.coldest() <= tier):
                if key in queue and block.leases == 0:
                    queue.move_to_end(key, last=False)
                skipped += 1
                if skipped > _SKIPPED_MAX:
                    return
                continue
            yield block

    def _share(self, tier: int) -> int:
        return self.budgets[tier].bytes_max // max(1, len(self.spaces))

    def _region_bytes(self, namespace: int, tier: int) -> int:
        return self.spaces[namespace][tier].region_bytes

    def _over_share(self, namespace: int, tier: int) -> int:
        space = self.spaces[namespace][tier]
        return len(space.regions) * space.region_bytes - self._share(tier)

    def _reclaim_elsewhere(self, namespace: int, tier: int) -> None:
        """Start to take the coldest region of the namespace furthest over its share."""
        others = [n for n in range(len(self.spaces)) if n != namespace]
        richest = max(others, key=lambda n: self._over_share(n, tier), default=None)
        if richest is None or self._over_share(richest, tier) <= 0:
            return
        space = self.spaces[richest][tier]
        if space.returning or any(region.draining for region in space.regions.values()):
            return  # One at a time: its bytes are on their way.
        region = self._coldest_region(richest, tier)
        if region is None:
            return
        self._retire(richest, tier, region)
        for block in self._blocks_in(richest, tier, region) if region in space.regions else ():
            if block.leases == 0 and block.key not in self.moving:
                self.evicted[tier] += 1
                self.remove_copy(block, tier)

    def _coldest_region(self, namespace: int, tier: int) -> int | None:
        space = self.spaces[namespace][tier]
        empty = [number for number, region in space.regions.items() if region.used == 0]
        if empty:
            return max(empty)
        victim = next(self._victims(namespace, tier, clean_only=False), None)
        if victim is None:
            return None
        slot = victim.slots[tier]
        assert slot is not None
        return slot // space.region_slots

    def _blocks_in(self, namespace: int, tier: int, region: int) -> list[Block]:
        slots = self.spaces[namespace][tier].region_slots
        blocks = (self._catalog.blocks[key] for key in self.policies[namespace][tier].victims())
        return [
            b for b in blocks if (slot := b.slots[tier]) is not None and slot // slots == region
        ]

    def _retire(self, namespace: int, tier: int, region: int) -> None:
        """Hand out no more of a region, and give it back as soon as it is empty."""
        if self.spaces[namespace][tier].drain(region):
            self._return(namespace, tier, region)

    def _return(self, namespace: int, tier: int, region: int) -> None:
        self.spaces[namespace][tier].start_return(region)
        self._outbox.add(ReclaimRegion(namespace, tier, region))
