"""A namespace in memory, for replays without a daemon. It holds all, and can be told to harm."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tierd.core.errors import LeaseExpired
from tierd.core.keys import BlockKey
from tierd_client import Fetched, RouteUse
from tierd_client.splitting import Route


class FakeGrant:
    """Buffers of its own, which become the namespace's blocks when sealed."""

    def __init__(self, owner: "FakeNamespace", chain: Sequence[BlockKey], indices: list[int]):
        self._owner = owner
        self._keys = [chain[index] for index in indices]
        self._bytes = [bytearray(owner.block_bytes) for _ in indices]
        self.indices = tuple(indices)
        self.views = [memoryview(block) for block in self._bytes]
        self.declined = 0
        self._open = True

    def seal(self) -> int:
        assert self._open
        self._open = False
        self._owner.seal(self._keys, self._bytes)
        return len(self._keys)

    def __enter__(self) -> "FakeGrant":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open:
            self._open = False
            self._owner.give_up(self._keys)


@dataclass
class FakeNamespace:
    """Blocks in a dict. `slots_a_grant` limits each grant, `is_away` makes everything a miss."""

    block_bytes: int
    slots_a_grant: int = 1 << 30
    is_away: bool = False
    seals_fail: bool = False
    held: dict[BlockKey, bytearray] = field(default_factory=dict)
    _writing: set[BlockKey] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def fetch_and_reserve(
        self,
        chain: Sequence[BlockKey],
        into: NDArray[np.uint8],
        *,
        deadline_s: float,
        wait_s: float,
        route: Route = "auto",
    ) -> tuple[Fetched, FakeGrant]:
        with self._changed:
            if self.is_away:
                return Fetched(cut="daemon away"), FakeGrant(self, chain, [])
            self._changed.wait_for(lambda: not self._next_is_being_written(chain), wait_s)
            count = self._prefix(chain)
            for index in range(count):
                into[index] = np.frombuffer(self.held[chain[index]], np.uint8)
            grant = self._grant(chain)
        moved = count * self.block_bytes
        # Every other block is said to come from the disk.
        tiers = {"host": count - count // 2, "disk": count // 2}
        return Fetched(count, tiers, {"host": RouteUse(count, moved, 1e-3)}), grant

    def reserve(self, chain: Sequence[BlockKey], *, wait_s: float) -> FakeGrant:
        with self._changed:
            return self._grant(chain)

    def seal(self, keys: list[BlockKey], blocks: list[bytearray]) -> None:
        with self._changed:
            self._writing.difference_update(keys)
            self._changed.notify_all()
            if self.seals_fail:
                raise LeaseExpired(1)
            self.held.update(zip(keys, blocks, strict=True))

    def give_up(self, keys: list[BlockKey]) -> None:
        with self._changed:
            self._writing.difference_update(keys)
            self._changed.notify_all()

    def _prefix(self, chain: Sequence[BlockKey]) -> int:
        return next((i for i, key in enumerate(chain) if key not in self.held), len(chain))

    def _next_is_being_written(self, chain: Sequence[BlockKey]) -> bool:
        count = self._prefix(chain)
        return count < len(chain) and chain[count] in self._writing

    def _grant(self, chain: Sequence[BlockKey]) -> FakeGrant:
        free = [
            index
            for index, key in enumerate(chain)
            if key not in self.held and key not in self._writing
        ]
        grant = FakeGrant(self, chain, free[: self.slots_a_grant])
        grant.declined = len(free) - len(grant.indices)
        self._writing.update(chain[index] for index in grant.indices)
        return grant
