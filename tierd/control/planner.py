"""Where each block of a fetch comes from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from tierd.control.catalog import Block
from tierd.control.config import StoreConfig
from tierd.control.events import Fetch, Run
from tierd.control.moves import Moves, Waiter
from tierd.control.room import Room


@dataclass(frozen=True, slots=True)
class Plan:
    """`runs` in chain order, from the first block wanted on; `found[i]` is the tier that serves
    block i; `under_way` are those blocks, by index, that are on their way to the entry tier."""

    runs: tuple[Run, ...]
    found: list[int]
    under_way: list[int]


@dataclass(slots=True)
class Staging:
    """What became of blocks that were asked for in the entry tier, by index in their chain."""

    landed: dict[int, int] = field(default_factory=dict)
    under_way: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    declined: list[int] = field(default_factory=list)


def plan_fetch(
    blocks: Sequence[Block], asked: Fetch, config: StoreConfig, room: Room, moves: Moves
) -> Plan:
    """Choose a source for each of `blocks`, leased already, and start the moves it takes.

    Those before `asked.first` need none. A block in a mapped tier is read in place. Of the others
    the first `asked.stage_blocks` are moved to the entry tier, as far as that has slots, and moves
    under way are joined; the rest is left to the client, who reads the medium by itself or asks
    for them with `stage`.
    """
    first = asked.first
    found = best_tiers(blocks, moves.online)
    slots = [block.slots[tier] for block, tier in zip(blocks, found, strict=True)]
    pending = [False] * len(blocks)
    under_way = []
    # Tiers up to the entry tier are mapped; only what is colder takes more than a look.
    if max(found) > config.entry:
        colder = [i for i in range(first, len(found)) if found[i] > config.entry]
        _start_moves(blocks, found, colder[: asked.stage_blocks], config.entry, room, moves)
        for index in colder:
            if _is_coming(blocks[index], config.entry, moves):
                pending[index] = True
                under_way.append(index)
    assert None not in slots, "found where there is no copy"
    runs = _runs(found[first:], cast(list[int], slots[first:]), pending[first:])
    return Plan(tuple(runs), found, under_way)


def stage(
    blocks: Sequence[Block], indices: Sequence[int], config: StoreConfig, room: Room, moves: Moves
) -> Staging:
    """Bring those of `blocks`, leased already, at `indices` to the entry tier."""
    staging = Staging()
    missing = []
    found = [0] * len(blocks)
    for index in indices:
        block = blocks[index]
        slot = block.slots[config.entry]
        readable = [t for t, s in enumerate(block.slots) if s is not None and moves.online[t]]
        if slot is not None:
            staging.landed[index] = slot
        elif not readable:
            staging.failed.append(index)
        elif readable[0] < config.entry:
            staging.declined.append(index)
        else:
            found[index] = readable[0]
            missing.append(index)
    _start_moves(blocks, found, missing, config.entry, room, moves)
    for index in missing:
        coming = _is_coming(blocks[index], config.entry, moves)
        (staging.under_way if coming else staging.declined).append(index)
    return staging


def wait_for(
    indices: Iterable[int], blocks: Sequence[Block], session: int, lease: int, moves: Moves
) -> None:
    """Have the lease told, once, when its blocks under way have landed."""
    for index in indices:
        state = moves.by_key[blocks[index].key]
        moves.urge(state)
        waiter = Waiter(session, lease, index)
        if waiter not in state.waiters:
            state.waiters.append(waiter)


def _is_coming(block: Block, entry: int, moves: Moves) -> bool:
    state = moves.by_key.get(block.key)
    return state is not None and state.move.target == entry and not state.stalled


def best_tiers(blocks: Sequence[Block], online: Sequence[bool]) -> list[int]:
    """Return the hottest tier that can serve each of `blocks`. Every one has such a tier."""
    tiers = [tier for tier, answers in enumerate(online) if answers]
    found = []
    for block in blocks:  # Plain loops: this runs for every block of every match and fetch.
        slots = block.slots
        for tier in tiers:
            if slots[tier] is not None:
                found.append(tier)
                break
    assert len(found) == len(blocks), "a block that no tier can serve"
    return found


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
