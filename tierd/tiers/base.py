"""The seam between deciding and moving: what every tier must do.

A tier is one medium. It lends each namespace a *space* of equal slots, numbered from 0 and
grouped in regions of `region_slots`. Tiers move bytes and report faults. They know no chains,
pick no victims and never retry: control decides those, and the mover runs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tierd.core.errors import CorruptSlot
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec


@dataclass(frozen=True, slots=True)
class SpaceSpec:
    """The shape of one namespace's slots in one tier.

    Units: a slot holds `layout.block_bytes`; `region_slots` slots are lent and given back
    together. `name` is the namespace's, for people and for the next rebuild of an index.
    """

    layout: LayoutSpec
    region_slots: int
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class SlotWrite:
    """One block to store. `source` is page aligned and `block_bytes` long."""

    slot: int
    key: BlockKey
    parent: BlockKey
    sequence: int
    source: memoryview


@dataclass(frozen=True, slots=True)
class SlotRead:
    """One block to bring back. `target` is writable, page aligned and `block_bytes` long."""

    slot: int
    key: BlockKey
    target: memoryview


class Space(Protocol):
    """One namespace's slots in one tier.

    Concurrency: calls on different slots may overlap. Calls on one slot may not; leases see
    to that. Cancellation: a cancelled `write` leaves its slots undefined until the next
    write, a cancelled `read` its targets. Neither harms any other slot.
    """

    @property
    def spec(self) -> SpaceSpec: ...

    def prepare(self, region: int) -> None:
        """Make a region that was just lent ready in the background. Never waits or fails."""
        ...

    async def write(self, writes: Sequence[SlotWrite]) -> None:
        """Store every block. Neighbouring slots in one call go to the medium together.

        Raises:
            TierOffline: the medium refused. All slots of the call are undefined.
        """
        ...

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        """Fill every target, and say for each whether the bytes are those of its key.

        Raises:
            TierOffline: the medium did not answer. All targets of the call are undefined.
        """
        ...

    async def sync(self) -> None:
        """Return when everything written before is durable, as far as the medium ever is.

        Raises:
            TierOffline: the medium refused.
        """
        ...

    async def reclaim(self, region: int) -> None:
        """Give the region's room back to the medium. Its slots hold nothing of use.

        Raises:
            TierOffline: the medium refused. The region is still there.
        """
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What a medium does now. A fault says why it does not; None is none."""

    read_fault: str | None = None
    write_fault: str | None = None


class Tier(Protocol):
    """One medium. All tiers pass `tests/conformance/test_tier.py`; rely on nothing else."""

    @property
    def name(self) -> str: ...

    @property
    def medium(self) -> str:
        """What holds the bytes, for people: an honest label."""
        ...

    def space(self, spec: SpaceSpec) -> Space:
        """Return the space of `spec.layout`, the same one for equal fingerprints."""
        ...

    async def probe(self) -> Probe:
        """Try the medium for real, by as small a write, sync and read as it has. Never raises."""
        ...

    async def aclose(self) -> None:
        """Give back every file, mapping and thread. Safe to call twice."""
        ...
