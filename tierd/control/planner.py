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
    found = [_best_tier(block, moves.online) for block in blocks]
    missing = [
        index
        for index, tier in enumerate(found)
        if not config.tiers[tier].mapped and blocks[index].key not in moves.by_key
    ]
    entry = config.entry
    if missing:
        slots = room.take(blocks[0].namespace, entry, len(missing))
        for index, slot in zip(missing, slots, strict=False):
            moves.start(blocks[index], found[index], entry, slot, "demand")
    runs: list[Run] = []
    under_way = []
    last_tier, last_slot, count, last_pending = -1, -1, 0, False
    for index, (block, tier) in enumerate(zip(blocks, found, strict=True)):
        slot = block.slots[tier]
        pending = False
        if not config.tiers[tier].mapped:
            state = moves.by_key.get(block.key)
            if state is not None and state.move.target == entry:
                tier, slot, pending = entry, state.move.target_slot, True
                under_way.append(index)
        assert slot is not None
        if tier == last_tier and slot == last_slot + count and pending == last_pending:
            count += 1
            continue
        if count:
            runs.append(Run(last_tier, last_slot, count, last_pending))
        last_tier, last_slot, count, last_pending = tier, slot, 1, pending
    if count:
        runs.append(Run(last_tier, last_slot, count, last_pending))
    return Plan(tuple(runs), found, under_way)


def wait_for(plan: Plan, blocks: Sequence[Block], session: int, lease: int, moves: Moves) -> None:
    """Have the lease told when its blocks under way have landed."""
    for index in plan.under_way:
        moves.by_key[blocks[index].key].waiters.append(Waiter(session, lease, index))


def _best_tier(block: Block, online: Sequence[bool]) -> int:
    for tier, slot in enumerate(block.slots):
        if slot is not None and online[tier]:
            return tier
    raise AssertionError("a block without a readable copy is not part of a prefix")
