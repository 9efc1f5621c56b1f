"""Which blocks are under way between tiers, who waits for them, and what is written back.

A write-back that fails is queued again and its tier left alone for a while, longer each time; a
block that failed too often is given up, which is counted. A tier that keeps failing is declared
read-only by whoever watches it, not here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from tierd.control.budget import WriteBudget
from tierd.control.catalog import Block, Catalog
from tierd.control.config import StoreConfig
from tierd.control.events import Move, MoveClass, MoveDone, Outbox, StartMoves, Urge
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
    """A move under way. A block is in at most one. `landed` when its target slot has a copy.

    `failures` are those of earlier moves of the block there. Nobody waits for one that `stalled`.
    """

    move: Move
    urgency: MoveClass
    failures: int = 0
    landed: bool = False
    stalled: bool = False
    waiters: list[Waiter] = field(default_factory=list)


class Moves:
    """Starts moves, in batches of one route, and ends them.

    By tier: `online` ones can be read and `writable` ones written. `given_up` are blocks whose
    write failed too often, `unbudgeted` those not written because the write budget was spent.
    """

    def __init__(self, config: StoreConfig, catalog: Catalog, room: Room, outbox: Outbox) -> None:
        self._config = config
        self._catalog = catalog
        self._room = room
        self._outbox = outbox
        self._numbers = count(1)
        self._starting: list[MoveState] = []
        self._urged: list[int] = []
        self._admission: list[Admission] = [config.policies.admission() for _ in config.tiers]
        self._afford = [getattr(admission, "afford", None) for admission in self._admission]
        self.by_number: dict[int, MoveState] = {}
        self.by_key: dict[BlockKey, MoveState] = {}
        self.writing_back: list[int] = [0] * len(config.tiers)
        self.coming_bytes = 0
        self.online: list[bool] = [True] * len(config.tiers)
        self.writable: list[bool] = [True] * len(config.tiers)
        self.budgets = [WriteBudget(tier.write_bytes_per_day) for tier in config.tiers]
        self.given_up: list[int] = [0] * len(config.tiers)
        self.unbudgeted: list[int] = [0] * len(config.tiers)
        self._resting_until_ns: list[int] = [0] * len(config.tiers)

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
        self.coming_bytes += self._coming_bytes(move)
        return state

    def urge(self, state: MoveState) -> None:
        """Have a move that somebody waits for now done before those that nobody does."""
        if state.urgency == "prefetch":
            state.urgency = "demand"
            self._urged.append(state.move.move)

    def flush(self, now_ns: int) -> None:
        """Send off what was planned, and as much write-back as its limits allow."""
        self._send()
        self._write_back(now_ns)
        if self._urged:
            self._outbox.add(Urge(tuple(self._urged)))
            self._urged.clear()

    def _send(self) -> None:
        """Send off what was planned, all of one route and class together."""
        batches: dict[tuple[int, int, int, MoveClass], list[Move]] = defaultdict(list)
        for state in self._starting:
            move = state.move
            batches[move.namespace, move.source, move.target, state.urgency].append(move)
        self._starting.clear()
        for (_, _, _, urgency), moves in batches.items():
            self._outbox.add(StartMoves(urgency, tuple(moves)))

    def next_wakeup_ns(self) -> int | None:
        """Return when write-back that rests goes on."""
        resting = zip(self._room.queued, self._resting_until_ns[1:], strict=False)
        return min((until_ns for queue, until_ns in resting if queue and until_ns), default=None)

    def stall(self, number: int) -> Sequence[Waiter]:
        """Have nobody wait for a move any more; return those who did.

        Its slots stay its own, and its block is moved by no other, until it ends.
        """
        state = self.by_number.get(number)
        if state is None or state.stalled:
            return ()
        self._stop_counting(state)
        state.stalled = True
        waiters, state.waiters = state.waiters, []
        return waiters

    def is_stalled(self, key: BlockKey) -> bool:
        """Say whether the move that a block is in has stalled."""
        state = self.by_key.get(key)
        return state is not None and state.stalled

    def finish(self, done: MoveDone, now_ns: int) -> MoveState:
        """End a move: its target slot holds a copy now, or is free again."""
        state = self.by_number.pop(done.move)
        move = state.move
        del self.by_key[move.key]
        del self._room.moving[move.key]
        if not state.stalled:
            self._stop_counting(state)
        if state.urgency == "write_back":
            self._note_write(state, done, now_ns)
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

    def consider_write_back(self, blocks: Iterable[Block], tier: int, now_ns: int) -> None:
        """Queue those of `blocks`, just used in `tier`, that the colder tier should have.

        They are due there from now on: the caller touches their chain.
        """
        if tier + 1 >= len(self._config.tiers) or not self.writable[tier + 1]:
            return
        admission, budget = self._admission[tier + 1], self.budgets[tier + 1]
        for block in blocks:
            if block.slots[tier] is None or block.coldest() > tier:
                continue
            if self._room.is_due(block.key, tier + 1):
                continue
            if (afford := self._afford[tier + 1]) is not None:
                afford(budget.left_ratio(now_ns))
            if not admission.admit(block.key):
                continue
            if budget.allows(now_ns):
                self._queue(block, tier)
            else:
                self.unbudgeted[tier + 1] += 1

    def write_now(self, blocks: Sequence[Block], tier: int) -> None:
        """Have `blocks` written to the colder tier first, whatever policy and budget say.

        They are due there from now on: the caller touches their chain.
        """
        if tier + 1 >= len(self._config.tiers) or not self.writable[tier + 1]:
            return
        for block in blocks:
            missing = block.slots[tier] is not None and block.coldest() <= tier
            if missing and not self._room.is_due(block.key, tier + 1):
                self._queue(block, tier)
        self.hurry(blocks, tier)

    def go_offline(self, tier: int) -> None:
        """Plan nothing on `tier` from now on. What is under way will end in a fault."""
        self.go_read_only(tier)
        self.online[tier] = False

    def go_read_only(self, tier: int) -> None:
        """Plan moves from `tier` from now on, and none to it."""
        self.online[tier] = True
        self.writable[tier] = False
        if tier > 0:
            self._room.clear_queue(tier - 1)

    def go_online(self, tier: int) -> None:
        """Plan moves from and to `tier` again."""
        self.online[tier] = self.writable[tier] = True
        self._resting_until_ns[tier] = 0

    def hurry(self, blocks: Sequence[Block], tier: int) -> None:
        """Write those of `blocks` that are queued before all others, root first."""
        queue = self._room.queued[tier]
        for block in reversed(blocks):
            if block.key in queue:
                queue.move_to_end(block.key, last=False)

    def _coming_bytes(self, move: Move) -> int:
        """Return the bytes of a move that the entry tier waits for."""
        block_bytes = self._catalog.namespaces[move.namespace].layout.block_bytes
        return block_bytes if move.target == self._config.entry else 0

    def _stop_counting(self, state: MoveState) -> None:
        self.writing_back[state.move.target] -= state.urgency == "write_back"
        self.coming_bytes -= self._coming_bytes(state.move)

    def _queue(self, block: Block, tier: int, failures: int = 0) -> None:
        """Have a block written to the colder tier, at the expense of that one's budget."""
        self._room.queued[tier][block.key] = failures
        self.budgets[tier + 1].spend(self._room.spaces[block.namespace][tier + 1].slot_bytes)

    def _note_write(self, state: MoveState, done: MoveDone, now_ns: int) -> None:
        """Let a tier whose write failed rest, and try the block again, up to a limit."""
        move, limits = state.move, self._config.limits
        if not done.fault:
            self._resting_until_ns[move.target] = 0
            return
        block = self._catalog.blocks.get(move.key)
        if block is None or block.slots[move.source] is None:
            return
        if block.slots[move.target] is not None or not self.writable[move.target]:
            return  # When a tier is writable again, all that it lacks is written.
        failures = state.failures + 1
        if failures == limits.writes_tried_max:
            self.given_up[move.target] += 1
            return
        self._queue(block, move.source, failures)
        rest_ns = limits.write_retry_ns << state.failures
        until_ns = max(self._resting_until_ns[move.target], now_ns + rest_ns)
        self._resting_until_ns[move.target] = until_ns

    def _write_back(self, now_ns: int) -> None:
        for source, queue in enumerate(self._room.queued[:-1]):
            target = source + 1
            if now_ns < self._resting_until_ns[target]:
                continue
            self._resting_until_ns[target] = 0
            while queue and self.writing_back[target] < self._blocks_max(queue, source):
                batch = self._next_batch(source)
                if not batch:
                    break
                namespace = batch[0][0].namespace
                slots = self._room.take(namespace, target, len(batch))
                for (block, failures), slot in zip(batch, slots, strict=False):
                    self.start(block, source, target, slot, "write_back").failures = failures
                # Each by itself: the next is written while this one is synced and recorded.
                self._send()
                # What finds no slot is given up: waiting for one, it would fill its own tier.
                for block, _ in batch[len(slots) :]:
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

    def _next_batch(self, source: int) -> list[tuple[Block, int]]:
        """Take blocks of one namespace from the queue, a batch at most, in queue order.

        With each comes how often writing it has failed.
        """
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
        return [(block, queue.pop(block.key)) for block in batch]
