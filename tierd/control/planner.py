"""Where each block of a fetch comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from tierd.control.catalog import Block
from tierd.control.config import StoreConfig
from tierd.control.events import Route, Run
from tierd.control.moves import Moves, Waiter
from tierd.control.room import Room


@dataclass(frozen=True, slots=True)
class Plan:
    """`runs` in chain order; `found[i]` is the tier that serves block i; `under_way` are those
    blocks, by index, whose bytes have yet to land."""

    runs: tuple[Run, ...]
    found: list[int]
    under_way: list[int]


def plan_fetch(
    blocks: Sequence[Block], config: StoreConfig, room: Room, moves: Moves, route: Route
) -> Plan:
    """Choose a source for each of `blocks`, leased already, and start the moves it takes.

    A block in a mapped tier is read in place. For another, a move into the entry tier is
    started, or joined if there is one; when the entry tier has no slot left, or `route` is
    direct, the client reads the block from the medium by itself.
    """
    found = best_tiers(blocks, moves.online)
    slots = [block.slots[tier] for block, tier in zip(blocks, found, strict=True)]
    tiers, pending = found, [False] * len(blocks)
    under_way = []
    # Tiers up to the entry tier are mapped; only what is colder takes more than a look.
    if max(found) > config.entry:
        tiers = list(found)
        colder = [index for index, tier in enumerate(found) if tier > config.entry]
        if route != "direct":
            _start_moves(blocks, found, colder, config.entry, room, moves)
        for index in colder:
            state = moves.by_key.get(blocks[index].key)
            if state is not None and state.move.target == config.entry:
                tiers[index], slots[index] = config.entry, state.move.target_slot
                pending[index] = True
                under_way.append(index)
    assert None not in slots, "found where there is no copy"
    return Plan(tuple(_runs(tiers, cast(list[int], slots), pending)), found, under_way)


def wait_for(plan: Plan, blocks: Sequence[Block], session: int, lease: int, moves: Moves) -> None:
    """Have the lease told when its blocks under way have landed."""
    for index in plan.under_way:
        moves.by_key[blocks[index].key].waiters.append(Waiter(session, lease, index))


def best_tiers(blocks: Sequence[Block], online: Sequence[bool]) -> list[int]:
    """Return the hottest tier that can serve each of `blocks`. Every one has such a tier."""
    tiers = [tier for tier, answers in enumerate(online) if answers]
    hottest = tiers[0]
    return [
        hottest if block.slots[hottest] is not None else _best_tier(block, tiers)
        for block in blocks
    ]


def _best_tier(block: Block, tiers: Sequence[int]) -> int:
    return next(tier for tier in tiers if block.slots[tier] is not None)


def _start_moves(
    blocks: Sequence[Block],
    found: Sequence[int],
    colder: Sequence[int],
    entry: int,
    room: Room,
    moves: Moves,
) -> None:
    """Bring blocks to the entry tier that are not on the way already, as far as it has slots."""
    missing = [index for index in colder if blocks[index].key not in moves.by_key]
    if not missing:
        return
    slots = room.take(blocks[0].namespace, entry, len(missing))
    for index, slot in zip(missing, slots, strict=False):
        moves.start(blocks[index], found[index], entry, slot, "demand")


def _runs(tiers: Sequence[int], slots: Sequence[int], pending: Sequence[bool]) -> Iterator[Run]:
    """Join neighbours: blocks in consecutive slots of one tier, all there or none yet."""
    count = 0
    run_tier, run_pending, next_slot = tiers[0], pending[0], slots[0]
    for tier, slot, waits in zip(tiers, slots, pending, strict=True):
        if slot != next_slot or tier != run_tier or waits != run_pending:
            yield Run(run_tier, next_slot - count, count, run_pending)
            count, run_tier, run_pending, next_slot = 0, tier, waits, slot
        count += 1
        next_slot += 1
    yield Run(run_tier, next_slot - count, count, run_pending)
