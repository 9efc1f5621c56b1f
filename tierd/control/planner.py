"""Where each block of a fetch comes from."""

from collections.abc import Sequence
from dataclasses import dataclass

from tierd.control.catalog import Block
from tierd.control.config import StoreConfig
from tierd.control.events import Run
from tierd.control.moves import Moves, Waiter
from tierd.control.room import Room


@dataclass(frozen=True, slots=True)
class Plan:
    """`runs` in chain order; `found[i]` is the tier that serves block i; `under_way` are those
    blocks, by index, whose bytes have yet to land."""

    runs: tuple[Run, ...]
    found: list[int]
    under_way: list[int]


def plan_fetch(blocks: Sequence[Block], config: StoreConfig, room: Room, moves: Moves) -> Plan:
    """Choose a source for each of `blocks`, leased already, and start the moves it takes.

    A block in a mapped tier is read in place. For another, a move into the entry tier is
    started, or joined if there is one; when the entry tier has no slot left, the client reads
    the block from the medium by itself.
    """
    found = best_tiers(blocks, moves.online)
    missing = [
        index
        for index, tier in enumerate(found)
        if not config.tiers[tier].mapped and blocks[index].key not in moves.by_key
    ]
    entry = config.entry
    if missing:
        slots = room.take(blocks[0].namespace, entry, len(missing))
        for index, target_slot in zip(missing, slots, strict=False):
            moves.start(blocks[index], found[index], entry, target_slot, "demand")
    runs: list[Run] = []
    under_way = []
    # A run grows here until a block does not continue it.
    tier, first, count, pending = 0, 0, 0, False
    for index, block in enumerate(blocks):
        block_tier, slot, block_pending = found[index], block.slots[found[index]], False
        if not config.tiers[block_tier].mapped:
            state = moves.by_key.get(block.key)
            if state is not None and state.move.target == entry:
                block_tier, slot, block_pending = entry, state.move.target_slot, True
                under_way.append(index)
        assert slot is not None, block.key
        if count and slot == first + count and block_tier == tier and block_pending == pending:
            count += 1
            continue
        if count:
            runs.append(Run(tier, first, count, pending))
        tier, first, count, pending = block_tier, slot, 1, block_pending
    if count:
        runs.append(Run(tier, first, count, pending))
    return Plan(tuple(runs), found, under_way)


def wait_for(plan: Plan, blocks: Sequence[Block], session: int, lease: int, moves: Moves) -> None:
    """Have the lease told when its blocks under way have landed."""
    for index in plan.under_way:
        moves.by_key[blocks[index].key].waiters.append(Waiter(session, lease, index))


def best_tiers(blocks: Sequence[Block], online: Sequence[bool]) -> list[int]:
    """Return the hottest tier that can serve each of `blocks`. Every one has such a tier."""
    found = []
    for block in blocks:
        for tier, slot in enumerate(block.slots):
            if slot is not None and online[tier]:
                found.append(tier)
                break
    assert len(found) == len(blocks), "a block without a readable copy is not part of a prefix"
    return found
