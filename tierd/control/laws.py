"""The laws of the store, checked from scratch: a bug that breaks one does not stay hidden.

Asserted after every step in tests, and on demand in production. Takes time in proportion to
everything held.
"""

from collections import Counter, defaultdict

from tierd.control.store import Store
from tierd.core.keys import BlockKey


def check(store: Store) -> None:
    """Raise AssertionError, naming the law, if `store` is not as it must be."""
    _slots_add_up(store)
    _leases_are_counted(store)
    _policies_track_what_is_there(store)
    _tokens_add_up(store)
    _caps_hold(store)


def _slots_add_up(store: Store) -> None:
    """Laws 1 and 2: a slot is free, or of one copy, writing or move, or set apart; never two."""
    holders: dict[tuple[int, int], Counter[int]] = {}
    copies: dict[tuple[int, int, int], set[tuple[BlockKey, int]]] = defaultdict(set)

    def hold(namespace: int, tier: int, slot: int | None) -> None:
        if slot is not None:
            holders.setdefault((namespace, tier), Counter())[slot] += 1

    for block in store.catalog.blocks.values():
        assert any(slot is not None for slot in block.slots), ("law 2: no copy", block.key)
        for tier, slot in enumerate(block.slots):
            hold(block.namespace, tier, slot)
            if slot is not None:
                number = slot // store.room.spaces[block.namespace][tier].region_slots
                copies[block.namespace, tier, number].add((block.key, slot))
    for block, tier, slot in store.room.apart:
        assert store.catalog.readers[block] > 0, ("law 2: set apart for nobody", block.key)
        hold(block.namespace, tier, slot)
    for state in store.moves.by_number.values():
        hold(state.move.namespace, state.move.target, state.move.target_slot)
    entry = store.config.entry
    writings = {id(w): w for lease in store.leases.leases.values() for w in lease.writings}
    writings |= {id(w): w for w in store.incoming.by_key.values()}
    for writing in writings.values():
        hold(writing.namespace, entry, writing.slot)
    for namespace, spaces in enumerate(store.room.spaces):
        for tier, space in enumerate(spaces):
            held = holders.get((namespace, tier), Counter())
            assert all(count == 1 for count in held.values()), ("law 2: held twice", held)
            for number, region in space.regions.items():
                first = number * space.region_slots
                slots = range(first, first + space.region_slots)
                used = sum(slot in held for slot in slots)
                assert not any(slot in held for slot in region.free), ("law 1: free", number)
                assert used == region.used, ("law 1: used", namespace, tier, number, used, region)
                keys = {(key, place) for place, key in enumerate(region.keys, first) if key}
                assert keys == copies.get((namespace, tier, number), set()), ("law 2: keys", number)
                assert set(region.free) <= set(slots), ("law 1: free", number, region.free)
                assert len(set(region.free)) == len(region.free), ("law 1: free", region.free)
                has_room = bool(region.free) and not region.draining
                assert has_room == (number in space.with_room), ("law 1: room", number)
            staying = [region for region in space.regions.values() if not region.draining]
            assert space.free == sum(len(region.free) for region in staying), ("law 1: free", tier)
            assert len(space.draining) == len(space.regions) - len(staying), ("law 1: draining",)
            used = sum(region.used for region in space.regions.values())
            assert sum(held.values()) == used == space.used, ("law 1: sum", namespace, tier)


def _leases_are_counted(store: Store) -> None:
    """Law 3: what is leased is there, with its count, and hangs on the root or on what is leased
    before it."""
    counted: Counter[int] = Counter()
    parents_of: Counter[int] = Counter()
    for lease in store.leases.leases.values():
        for block in lease.blocks:
            (parents_of if lease.writes else counted)[id(block)] += 1
        before = root = store.catalog.namespaces[lease.namespace].layout.root
        for block in lease.blocks:
            assert block.parent in (root, before), ("law 3: a lease holds a gap", lease.number)
            before = block.key
    for block in store.catalog.blocks.values():
        readers = store.catalog.readers[block]
        assert readers == counted[id(block)], ("law 3: lease count", block.key, readers)
        children = store.catalog.children[block]
        assert children == parents_of[id(block)], ("law 3: children", block.key)
    for session in store.sessions.values():
        own = {x.number for x in store.leases.leases.values() if x.session == session.number}
        assert session.leases == own, ("law 3: leases of a session", session.number)
    pinned = sum(lease.pin_bytes for lease in store.leases.leases.values())
    assert pinned == store.pinned_bytes, ("law 3: pinned bytes", pinned, store.pinned_bytes)


def _policies_track_what_is_there(store: Store) -> None:
    """A policy knows what is in its tier or due there, less what is pinned."""
    for namespace, policies in enumerate(store.room.policies):
        for tier, policy in enumerate(policies):
            tracked = list(policy.victims())
            wanted = {
                block.key
                for block in store.catalog.blocks.values()
                if block.namespace == namespace
                and block not in store.catalog.pins
                and (block.slots[tier] is not None or store.room.is_due(block.key, tier))
            }
            assert len(tracked) == len(wanted), ("policy: count", tier, len(tracked), len(wanted))
            assert set(tracked) == wanted, ("policy: keys", tier)
    for tier, queue in enumerate(store.room.queued):
        for key in queue:
            slots = store.catalog.blocks[key].slots
            assert slots[tier] is not None, ("write-back queue: not here", tier)
            assert slots[tier + 1] is None, ("write-back queue: there already", tier)
    moving = {key: state.move.target for key, state in store.moves.by_key.items()}
    assert store.room.moving == moving, "moving"


def _tokens_add_up(store: Store) -> None:
    """Law 8: tokens asked = tokens served by each tier + tokens missed."""
    for counts in store.counts:
        served = sum(counts.tokens_hit.values())
        assert counts.tokens_asked == served + counts.tokens_missed, ("law 8", counts)


def _caps_hold(store: Store) -> None:
    """Law 7: no tier lends more than it has, and no more is expected than may be."""
    returns, blocks_max = store.expecting.returns, store.config.limits.expected_blocks_max
    assert len(returns) <= returns.blocks <= blocks_max, ("law 7: expected", returns.blocks)
    assert returns.sessions() <= store.sessions.keys(), ("law 7: expected", returns.sessions())
    for tier, budget in enumerate(store.room.budgets):
        lent = sum(
            (len(spaces[tier].regions) + len(spaces[tier].returning)) * spaces[tier].region_bytes
            for spaces in store.room.spaces
        )
        assert lent == budget.bytes_lent <= budget.bytes_max, ("law 7", tier, lent, budget)
