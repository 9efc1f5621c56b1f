"""The laws of the store, checked from scratch: a bug that breaks one does not stay hidden.

Asserted after every step in tests, and on demand in production. Takes time in proportion to
everything held.
"""

from collections import Counter

from tierd.control.store import Store


def check(store: Store) -> None:
    """Raise AssertionError, naming the law, if `store` is not as it must be."""
    _slots_add_up(store)
    _leases_are_counted(store)
    _policies_track_what_is_there(store)
    _tokens_add_up(store)
    _caps_hold(store)


def _slots_add_up(store: Store) -> None:
    """Laws 1 and 2: a slot is free, or held by one copy, one writing or one move, never two."""
    holders: dict[tuple[int, int], Counter[int]] = {}

    def hold(namespace: int, tier: int, slot: int | None) -> None:
        if slot is not None:
            holders.setdefault((namespace, tier), Counter())[slot] += 1

    for block in store.catalog.blocks.values():
        assert any(slot is not None for slot in block.slots), ("law 2: no copy", block.key)
        for tier, slot in enumerate(block.slots):
            hold(block.namespace, tier, slot)
    for state in store.moves.by_number.values():
        hold(state.move.namespace, state.move.target, state.move.target_slot)
    entry = store.config.entry
    writings = {id(w): w for lease in store.leases.leases.values() for w in lease.writings}
    writings |= {id(w): w for w in store.writing.values()}
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
                free = sum(slot in slots for slot in space.free)
                assert used == region.used, ("law 1: used", namespace, tier, number, used, region)
                if not region.draining:
                    assert used + free == space.region_slots, ("law 1: free", used, free)
            assert sum(held.values()) == space.used, (
                "law 1: outside every region",
                namespace,
                tier,
            )


def _leases_are_counted(store: Store) -> None:
    """Law 3: what is leased is there, with its count, and so are its ancestors."""
    counted: Counter[int] = Counter()
    for lease in store.leases.leases.values():
        for block in lease.blocks:
            counted[id(block)] += 1
        parents = (
            block.parent == before.key
            for before, block in zip(lease.blocks, lease.blocks[1:], strict=False)
        )
        assert all(parents), ("law 3: a lease holds a gap", lease.number)
    for block in store.catalog.blocks.values():
        assert block.leases == counted[id(block)], ("law 3: lease count", block.key, block.leases)
    for session in store.sessions.values():
        for number in session.leases:
            assert number in store.leases.leases, ("law 3: lease of a session", number)


def _policies_track_what_is_there(store: Store) -> None:
    for namespace, policies in enumerate(store.room.policies):
        for tier, policy in enumerate(policies):
            tracked = list(policy.victims())
            held = {
                block.key
                for block in store.catalog.blocks.values()
                if block.namespace == namespace and block.slots[tier] is not None
            }
            assert len(tracked) == len(held), ("policy: count", tier, len(tracked), len(held))
            assert set(tracked) == held, ("policy: keys", tier)
    for tier, queue in enumerate(store.room.queued):
        for key in queue:
            assert store.catalog.blocks[key].slots[tier] is not None, ("write-back queue", tier)


def _tokens_add_up(store: Store) -> None:
    """Law 8: tokens asked = tokens served by each tier + tokens missed."""
    for counts in store.counts:
        served = sum(counts.tokens_hit.values())
        assert counts.tokens_asked == served + counts.tokens_missed, ("law 8", counts)


def _caps_hold(store: Store) -> None:
    """Law 7: no tier lends more than it has."""
    for tier, budget in enumerate(store.room.budgets):
        lent = sum(
            (len(spaces[tier].regions) + len(spaces[tier].returning)) * spaces[tier].region_bytes
            for spaces in store.room.spaces
        )
        assert lent == budget.bytes_lent <= budget.bytes_max, ("law 7", tier, lent, budget)
