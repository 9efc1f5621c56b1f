"""Blocks on their way in: which slots writers hold, and when a block becomes visible."""

from collections import deque
from collections.abc import Callable, Sequence

from tierd.control.catalog import Block, Catalog
from tierd.control.config import StoreConfig
from tierd.control.events import Fetch, Grant, Reserve
from tierd.control.leases import Lease, Writing
from tierd.control.room import Room
from tierd.core.keys import BlockKey


class Incoming:
    """Reserved slots of the entry tier, by the block that is to be in each.

    `by_key` has the blocks that may still become visible. A block does with its last part, and
    each part has one writer.
    """

    def __init__(self, config: StoreConfig, catalog: Catalog, room: Room) -> None:
        self._config = config
        self._catalog = catalog
        self._room = room
        self._half_sealed: deque[tuple[int, Writing]] = deque()
        self.by_key: dict[BlockKey, Writing] = {}

    def wanted(
        self,
        asked: Fetch | Reserve,
        first: int,
        part: int,
        is_readable: Callable[[Block], bool],
    ) -> list[int]:
        """Return the indices, from `first` on, of the blocks of which `part` is nobody's yet.

        A chain ends before what cannot be written now: what hangs on that may wait for the next
        turn. Of keys apart the others are wanted all the same.
        """
        wanted: dict[BlockKey, int] = {}
        for index in range(first, len(asked.keys)):
            key = asked.keys[index]
            block = None if key in self.by_key else self._catalog.blocks.get(key)
            if block is not None and block.namespace == asked.namespace and is_readable(block):
                continue
            # No chain has a key twice.
            if key in wanted or not self._is_free(asked.namespace, key, part):
                if asked.apart:
                    continue
                break
            wanted[key] = index
            if len(wanted) == self._config.limits.slots_per_publish_max:
                break
        return list(wanted.values())

    def grant(
        self, lease: Lease, asked: Fetch | Reserve, wanted: Sequence[int]
    ) -> tuple[list[Grant], int]:
        """Give the lease slots for its part of the `wanted` blocks.

        Slots of other parts are joined, the others are new. Returns the grants, and how many
        blocks had no slot.
        """
        layout, keys = self._catalog.namespaces[lease.namespace].layout, asked.keys
        fresh = [index for index in wanted if keys[index] not in self.by_key]
        self._room.missed(lease.namespace, self._config.entry, [keys[index] for index in fresh])
        slots = self._room.take(lease.namespace, self._config.entry, len(fresh))
        declined = len(fresh) - len(slots)
        end = fresh[len(slots)] if declined else len(keys)
        for index, slot in zip(fresh, slots, strict=False):
            parent = keys[index - 1] if index and not asked.apart else layout.root
            parts = set(range(layout.shards))
            self.by_key[keys[index]] = Writing(keys[index], parent, lease.namespace, slot, parts)
        grants: list[Grant] = []
        for index in wanted:
            if index >= end:
                break
            writing = self.by_key[keys[index]]
            writing.leases[lease.part] = lease.number
            lease.writings.append(writing)
            _extend(grants, index, writing.slot)
        return grants, declined

    def seal(self, lease: Lease, count: int, now_ns: int) -> tuple[int, list[Block]]:
        """Note that the lease's first `count` blocks hold its part; the others stay the lease's.

        Returns how many are or will be visible, and those that now are.
        """
        kept, lease.writings = lease.writings[:count], lease.writings[count:]
        visible = []
        sealed = 0
        for writing in kept:
            del writing.leases[lease.part]
            writing.parts_missing.discard(lease.part)
            if writing.aborted:
                self._free_if_idle(writing)
                continue
            sealed += 1
            if writing.parts_missing:
                until_ns = now_ns + self._config.write_lease_ns
                self._half_sealed.append((until_ns, writing))
            else:
                visible.append(self._publish(writing))
        return sealed, visible

    def abort(self, lease: Lease) -> None:
        """Decide that what the lease was to write will not be published. Nobody ever saw it."""
        for writing in lease.writings:
            self._abort(writing)

    def let_go(self, lease: Lease) -> None:
        """Abort, and free the slots: the lease's owner has stopped writing to them."""
        for writing in lease.writings:
            self._abort(writing)
            writing.leases.pop(lease.part, None)
            self._free_if_idle(writing)

    def expire(self, now_ns: int) -> list[BlockKey]:
        """Give up blocks whose other parts nobody has come to write; return their keys."""
        aborted = []
        while self._half_sealed and self._half_sealed[0][0] <= now_ns:
            _, writing = self._half_sealed.popleft()
            if writing.aborted or not writing.parts_missing:
                continue
            if writing.leases:
                self._half_sealed.append((now_ns + self._config.write_lease_ns, writing))
                continue
            self._abort(writing)
            self._free_if_idle(writing)
            aborted.append(writing.key)
        return aborted

    def next_expiry_ns(self) -> int | None:
        """Return when `expire` has something to look at next."""
        return self._half_sealed[0][0] if self._half_sealed else None

    def _is_free(self, namespace: int, key: BlockKey, part: int) -> bool:
        """Say whether `part` of a block that cannot be read may be written."""
        writing = self.by_key.get(key)
        if writing is None:
            # Nothing leads through another namespace: roots differ.
            block = self._catalog.blocks.get(key)
            return block is None or block.namespace == namespace
        return writing.namespace == namespace and is_joinable(writing, part)

    def _publish(self, writing: Writing) -> Block:
        del self.by_key[writing.key]
        entry = self._config.entry
        known = self._catalog.blocks.get(writing.key)
        if known is not None and known.slots[entry] is not None:
            # Brought back meanwhile by a move from a tier that then went offline.
            self._room.give(writing.namespace, entry, writing.slot)
            return known
        return self._room.add_copy(
            writing.namespace, writing.key, writing.parent, entry, writing.slot
        )

    def _abort(self, writing: Writing) -> None:
        if not writing.aborted:
            writing.aborted = True
            del self.by_key[writing.key]

    def _free_if_idle(self, writing: Writing) -> None:
        if writing.aborted and not writing.leases:
            self._room.give(writing.namespace, self._config.entry, writing.slot)


def is_joinable(writing: Writing, part: int) -> bool:
    """Say whether `part` of a block in the making is still nobody's."""
    return part in writing.parts_missing and part not in writing.leases


def _extend(grants: list[Grant], index: int, slot: int) -> None:
    """Add one slot to the grants, to the last run if it continues that."""
    if grants:
        last = grants[-1]
        if index == last.index + last.count and slot == last.slot + last.count:
            grants[-1] = Grant(last.index, last.slot, last.count + 1)
            return
    grants.append(Grant(index, slot, 1))
