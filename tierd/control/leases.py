"""Leases: promises, with an expiry, that copies stay or that slots are yours."""

from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from tierd.control.catalog import Block, Catalog, count_down
from tierd.core.keys import BlockKey


@dataclass(slots=True, eq=False)
class Writing:
    """A block on its way in: one slot, whose parts are written under leases of their own.

    It enters the catalog when every part is sealed. Once `aborted` it never will, and its
    slot is freed when the last lease that may still write to it has ended.
    """

    key: BlockKey
    parent: BlockKey
    namespace: int
    slot: int
    parts_missing: set[int]
    leases: dict[int, int] = field(default_factory=dict)  # part -> lease
    aborted: bool = False


@dataclass(slots=True, eq=False)
class Lease:
    """One promise to one session.

    `blocks` are those read, which stay in place, or for a lease that `writes` the parents of
    those written, which stay somewhere. `found[i]` is the tier that was to serve blocks[i]; those
    before `first` the client had already.
    `writings` are the reserved blocks, in chain order.
    `pin_bytes` is what a pin takes of the quota, 0 in other leases. An `expired` lease promises
    nothing more; one with writings is kept until its owner says that it has stopped writing, or
    is dead.
    """

    number: int
    session: int
    namespace: int
    expires_ns: int
    blocks: list[Block]
    fence: int = 0
    found: list[int] = field(default_factory=list)
    first: int = 0
    writings: list[Writing] = field(default_factory=list)
    part: int = 0
    pin_bytes: int = 0
    writes: bool = False
    expired: bool = False


@dataclass(slots=True)
class Session:
    """A connected client. `owner` is the process that may hold our memory mapped."""

    number: int
    owner: int | None
    fences_free: list[int]
    leases: set[int] = field(default_factory=set)


class LeaseTable:
    """All live leases, and when the next one ends."""

    def __init__(self, catalog: Catalog) -> None:
        self.leases: dict[int, Lease] = {}
        self._catalog = catalog
        self._numbers = count(1)
        self._expiries: list[tuple[int, int]] = []

    def next_number(self) -> int:
        return next(self._numbers)

    def add(self, lease: Lease) -> None:
        self._held_by(lease).update(lease.blocks)
        self.leases[lease.number] = lease
        heappush(self._expiries, (lease.expires_ns, lease.number))

    def renew(self, lease: Lease, expires_ns: int) -> None:
        lease.expires_ns = expires_ns
        heappush(self._expiries, (expires_ns, lease.number))

    def let_go(self, lease: Lease) -> list[Block]:
        """Stop holding the blocks of a lease, and return them. The lease is not forgotten."""
        counter = self._held_by(lease)
        for block in lease.blocks:
            count_down(counter, block)
        blocks, lease.blocks = lease.blocks, []
        return blocks

    def pop_expired(self, now_ns: int) -> list[Lease]:
        """Return the live leases whose time is over, each once."""
        over: dict[int, Lease] = {}
        while self._expiries and self._expiries[0][0] <= now_ns:
            expires_ns, number = heappop(self._expiries)
            lease = self.leases.get(number)
            # A renewed lease has a later entry of its own; this one is stale.
            if lease and not lease.expired and lease.expires_ns == expires_ns:
                over[number] = lease
        return list(over.values())

    def next_expiry_ns(self) -> int | None:
        return self._expiries[0][0] if self._expiries else None

    def _held_by(self, lease: Lease) -> Counter[Block]:
        return self._catalog.children if lease.writes else self._catalog.readers
