"""The bytes of every slot, and what goes wrong with them.

A block's bytes follow from its key, so whoever reads knows what it should have found, whatever
the store believes. Slots of a tier that is not mapped have a header, as on disk: what is read
there is verified. In mapped ones nothing tells right bytes from wrong ones but the laws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from random import Random

from tests.stores import page_layout
from tierd.core.keys import BlockKey
from tierd.tiers.faulty import NO_FAULTS

DEVICE, HOST, DISK = range(3)
LAYOUTS = (page_layout("one shard"), page_layout("two shards", shards=2))

Place = tuple[int, int, int]
"""Tier, namespace, slot."""

TORN = b"half old, half new"


@lru_cache(maxsize=4096)
def bytes_of(namespace: int, key: BlockKey, part: int) -> bytes:
    """Return what the engine computes for one part of a block."""
    return blake2b(key, digest_size=8, salt=bytes([namespace, part])).digest()


@dataclass(slots=True)
class Stored:
    """What a slot holds: a part may be there while another is not. `key` is the header's."""

    parts: list[bytes]
    key: BlockKey | None = None


class Mediums:
    """What is in each slot of each tier, whose regions are lent, and which tiers answer.

    Those `offline` answer nothing, those `read_only` no writes.
    """

    def __init__(self, rng: Random, mapped: Sequence[bool]) -> None:
        self._rng = rng
        self._mapped = mapped
        self._slots: dict[Place, Stored] = {}
        self.regions: dict[Place, range] = {}
        self.faults = NO_FAULTS
        self.offline: set[int] = set()
        self.read_only: set[int] = set()
        self.spoilt = 0

    def prepare(self, tier: int, namespace: int, region: int, slots: int) -> None:
        """Make the slots of a region that was just lent."""
        place = (tier, namespace, region)
        assert place not in self.regions, ("lent twice", place)
        self.regions[place] = range(region * slots, (region + 1) * slots)

    def reclaim(self, tier: int, namespace: int, region: int) -> None:
        """Take the slots of a region away."""
        for slot in self.regions.pop((tier, namespace, region)):
            self._slots.pop((tier, namespace, slot), None)

    def write(self, place: Place, part: int, shards: int, content: bytes) -> None:
        """Have a client write one part of a slot that it was granted."""
        self._check_lent(place)
        stored = self._slots.setdefault(place, Stored([]))
        stored.parts += [b""] * (shards - len(stored.parts))
        stored.parts[part] = content
        stored.key = None

    def tear(self, place: Place, shards: int) -> None:
        """Leave a slot as it is in the middle of a write."""
        self._check_lent(place)
        self._slots[place] = Stored([TORN] * shards)

    def parts(self, place: Place) -> tuple[bytes, ...]:
        """Return whatever is in a slot, unverified."""
        stored = self._slots.get(place)
        return tuple(stored.parts) if stored else ()

    def verified(self, place: Place, key: BlockKey) -> tuple[bytes, ...] | None:
        """Return the parts of a block, or None if these are not its bytes and the tier can say.

        A tier whose slots are mapped cannot.
        """
        parts = self.parts(place)
        if self._mapped[place[0]]:
            return parts
        stored = self._slots.get(place)
        if stored is None or stored.key != key or TORN in parts:
            return None
        return parts

    def store(self, place: Place, key: BlockKey, parts: Sequence[bytes]) -> None:
        """Store a block, or do to it what a medium that verifies would notice."""
        self._check_lent(place)
        content = Stored(list(parts), key)
        fate = self._rng.random() if not self._mapped[place[0]] else 1.0
        faults = self.faults
        for ratio, spoil in (
            (faults.flipped, self._flip),
            (faults.torn, self._lose),
            (faults.misdirected, self._misdirect),
        ):
            if fate < ratio:
                self.spoilt += 1
                spoil(place, content)
                return
            fate -= ratio
        self._slots[place] = content

    def _flip(self, place: Place, content: Stored) -> None:
        part = self._rng.randrange(len(content.parts))
        content.parts[part] = TORN
        self._slots[place] = content

    def _lose(self, place: Place, content: Stored) -> None:
        """The medium says that it stored a block, and did nothing: the slot is as it was."""

    def _misdirect(self, place: Place, content: Stored) -> None:
        tier, namespace, _ = place
        lent = [slots for (t, n, _), slots in self.regions.items() if (t, n) == (tier, namespace)]
        slot = self._rng.choice([slot for slots in lent for slot in slots])
        self._slots[tier, namespace, slot] = content

    def _check_lent(self, place: Place) -> None:
        tier, namespace, slot = place
        regions = self.regions.items()
        lent = any(slot in slots for (t, n, _), slots in regions if (t, n) == (tier, namespace))
        assert lent, ("written where nothing is lent", place)
