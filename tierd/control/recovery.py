"""What survived a restart, put back into the catalog."""

from collections.abc import Iterable
from itertools import islice

from tierd.control.catalog import Catalog
from tierd.control.events import Recovered
from tierd.control.room import Room
from tierd.core.keys import BlockKey


def recover(event: Recovered, namespace: int, catalog: Catalog, room: Room) -> list[BlockKey]:
    """Take over the copies of a namespace that was just added; return those that are lost.

    Their order, least recent first, becomes the order of eviction.
    """
    space = room.spaces[namespace][event.tier]
    tiers = len(room.spaces[namespace])
    lost = []
    for key, parent, slot in event.copies:
        region = slot // event.region_slots
        if region not in space.regions and space.budget.lend(space.region_bytes):
            space.adopt(region)
        if key in catalog.blocks or region not in space.regions:
            lost.append(key)
            continue
        before = space.fill(slot, key)
        if before is not None:
            # Of two records of one slot the newer one tells what is in it.
            catalog.remove_copy(catalog.blocks[before], event.tier)
            lost.append(before)
        catalog.add_copy(namespace, key, parent, event.tier, slot, tiers)
    space.settle()
    # The catalog has them in the order in which they came.
    newest_first = islice(reversed(catalog.blocks), catalog.held[namespace])
    room.policies[namespace][event.tier].touch(parents_first(newest_first, catalog))
    return lost


def parents_first(keys: Iterable[BlockKey], catalog: Catalog) -> list[BlockKey]:
    """Return `keys`, which are held, in order, but each after its ancestors."""
    find = catalog.blocks.get
    ordered: list[BlockKey] = []
    known: set[BlockKey] = set()
    for key in keys:
        branch = []
        while key not in known and (block := find(key)) is not None:
            known.add(key)
            branch.append(block.key)
            key = block.parent
        branch.reverse()
        ordered += branch
    return ordered
