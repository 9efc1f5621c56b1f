"""Which blocks are under way between tiers, who waits for them, and what is written back."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from tierd.control.catalog import Block, Catalog
from tierd.control.config import StoreConfig
from tierd.control.events import Move, MoveClass, MoveDone, Outbox, StartMoves
from tierd.control.policies import Admission
from tierd.control.room import Room
from tierd.core.keys import BlockKey

_LOOKED_AT_MAX = 4096
"""Queued blocks that are looked at for one batch."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A lease whose block `index` is on its way."""

    session: int
    lease: int
    index: int


@dataclass(slots=True, eq=False)
class MoveState:
    """A move under way. A block is in at most one. `landed` when its target slot has a copy."""

    move: Move
    urgency: MoveClass
    landed: bool = False
    waiters: list[Waiter] = field(default_factory=list)


class Moves:
    """Starts moves, in batches of one route, and ends them."""

    def __init__(self, config: StoreConfig, catalog: Catalog, room: Room, outbox: Outbox) -> None:
        self._config = config
        self._catalog = catalog
        self._room = room
        self._outbox = outbox
        self._numbers = count(1)
        self._starting: list[MoveState] = []
        self._admission: list[Admission] = [config.policies.admission() for _ in config.tiers]
        self.by_number: dict[int, MoveState] = {}
        self.by_key: dict[BlockKey, MoveState] = {}
        self.writing_back: list[int] = [0] * len(config.tiers)
        self.online: list[bool] = [True] * len(config.tiers)

    def start(
        self, block: Block, source: int, target: int, slot: int, urgency: MoveClass
    ) -> MoveState:
        """Plan to copy `block` into a taken slot of `target`. `flush` sends it off.

        The block is due there from now on: the caller touches its chain.
        """
        source_slot = block.slots[source]
        assert source_slot is not None
        assert block.key not in self.by_key, block.key
        assert self._config.entry in (source, target), (source, target)
        number = next(self._numbers)
        move = Move(
            number, block.namespace, block.key, block.parent, source, source_slot, target, slot
        )
        state = MoveState(move, urgency)
        self.by_number[number] = self.by_key[block.key] = state
        self._room.moving[block.key] = target
        self._starting.append(state)
        self.writing_back[target] += urgency == "write_back"
        return state

    def flush(self) -> None:
        """Send off what was planned, and as much write-back as its limits allow."""
        self._write_back()
        batches: dict[tuple[int, int, int, MoveClass], list[Move]] = defaultdict(list)
        for state in self._starting:
            move = state.move
            batches[move.namespace, move.source, move.target, state.urgency].append(move)
        self._starting.clear()
        for (_, _, _, urgency), moves in batches.items():
            self._outbox.add(StartMoves(urgency, tuple(moves)))

    def finish(self, done: MoveDone) -> MoveState:
        """End a move: its target slot holds a copy now, or is free again."""
        state = self.by_number.pop(done.move)
        move = state.move
        del self.by_key[move.key]
        del self._room.moving[move.key]
        if state.urgency == "write_back":
            self.writing_back[move.target] -= 1
        known = self._catalog.blocks.get(move.key)
        if done.fault or (known is not None and known.slots[move.target] is not None):
            # Failed; or, while the source was offline, the block was published anew. Then who
            # waits hears of a failure, too: the slot that it was promised is another's now.
            self._room.give(move.namespace, move.target, move.target_slot)
            self._room.untrack(move.namespace, move.key, move.target)
            return state
        self._room.add_copy(move.namespace, move.key, move.parent, move.target, move.target_slot)
        state.landed = True
        return state

    def consider_write_back(self, blocks: Iterable[Block], tier: int) -> None:
        """Queue those of `blocks`, just used in `tier`, that the colder tier should have.

        They are due there from now on: the caller touches their chain.
        """
        if tier + 1 >= len(self._config.tiers) or not self.online[tier + 1]:
            return
        queue = self._room.queued[tier]
        admission = self._admission[tier + 1]
        for block in blocks:
            if block.slots[tier] is None or block.coldest() > tier:
                continue
            if not self._room.is_due(block.key, tier + 1) and admission.admit(block.key):
                queue[block.key] = None

    def write_now(self, blocks: Sequence[Block], tier: int) -> None:
        """Have `blocks` written to the colder tier before all others, whatever the policy says.

        They are due there from now on: the caller touches their chain.
        """
        if tier + 1 >= len(self._config.tiers) or not self.online[tier + 1]:
            return
        queue = self._room.queued[tier]
        for block in blocks:
            missing = block.slots[tier] is not None and block.coldest() <= tier
            if missing and not self._room.is_due(block.key, tier + 1):
                queue[block.key] = None
        self.hurry(blocks, tier)

    def go_offline(self, tier: int) -> None:
        """Plan nothing on `tier` from now on. What is under way will end in a fault."""
        self.online[tier] = False
        if tier > 0:
            self._room.clear_queue(tier - 1)

    def go_online(self, tier: int) -> None:
        """Plan moves from and to `tier` again."""
        self.online[tier] = True

    def hurry(self, blocks: Sequence[Block], tier: int) -> None:
        """Write those of `blocks` that are queued before all others, root first."""
        queue = self._room.queued[tier]
        for block in reversed(blocks):
            if block.key in queue:
                queue.move_to_end(block.key, last=False)

    def _write_back(self) -> None:
        for source, queue in enumerate(self._room.queued[:-1]):
            target = source + 1
            while queue and self.writing_back[target] < self._blocks_max(queue, source):
                batch = self._next_batch(source)
                if not batch:
                    break
                namespace = batch[0].namespace
                slots = self._room.take(namespace, target, len(batch))
                for block, slot in zip(batch, slots, strict=False):
                    self.start(block, source, target, slot, "write_back")
                # What finds no slot is given up: waiting for one, it would fill its own tier.
                for block in batch[len(slots) :]:
                    self._room.untrack(namespace, block.key, target)
                if len(slots) < len(batch):
                    break

    def _batch_blocks(self, namespace: int, tier: int) -> int:
        slot_bytes = self._room.spaces[namespace][tier].slot_bytes
        return max(1, self._config.limits.write_batch_bytes // slot_bytes)

    def _blocks_max(self, queue: Iterable[BlockKey], source: int) -> int:
        """Return how many blocks may be under way while the first in the queue is next."""
        namespace = self._catalog.blocks[next(iter(queue))].namespace
        return self._batch_blocks(namespace, source) * self._config.limits.write_batches_max

    def _next_batch(self, source: int) -> list[Block]:
        """Take blocks of one namespace from the queue, a batch at most, in queue order."""
        queue = self._room.queued[source]
        batch: list[Block] = []
        limit = 1
        for key in islice(queue, _LOOKED_AT_MAX):
            block = self._catalog.blocks[key]
            if key in self.by_key:
                continue
            if not batch:
                limit = self._batch_blocks(block.namespace, source)
            elif block.namespace != batch[0].namespace:
                continue
            batch.append(block)
            if len(batch) == limit:
                break
        for block in batch:
            del queue[block.key]
        return batch
