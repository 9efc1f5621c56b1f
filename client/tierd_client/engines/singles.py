"""Blocks that an engine names one by one, without the chain that leads to them.

An engine that keeps a cache of its own asks for what comes after it, and does not say what is in
it, or not wholly. Its name of a block, a hash, stands for everything before the block; so blocks
are kept `Apart`: each is found by itself, and right by its name. What is given up is that a chain
loses its end first: of the blocks of one call alone the last ones go first.
"""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from time import monotonic
from typing import Any, Final

import numpy as np

from tierd.core.errors import InvalidRequest
from tierd.core.keys import adopt_keys
from tierd.core.layouts import LayoutSpec
from tierd_client.apart import Apart
from tierd_client.buffers import Scattered
from tierd_client.engines.link import Link
from tierd_client.namespace import Namespace
from tierd_client.results import Fetched, Matched, Published

_NAMES_MAX: Final = 1024
"""Names in one message."""

_BYTES_MAX: Final = 256 << 20
"""Bytes of blocks in one message: until they are copied they are leased, and perhaps copied once
more."""

_LOOKUP_S_MAX: Final = 5.0
"""How long a daemon that does not answer holds up a lookup: no call begins later."""

_NOTHING_MORE: Final = ("deadline", "overloaded", "daemon away")
"""Why a fetch can end so that one of what is left would not bring anything either."""

_DECLINED: Final = Published(declined=1)

Extent = tuple[int, int]
"""An address in this process, and how many bytes from there on."""

Extents = Sequence[Extent]
"""Where one block lies in memory, in the order of its bytes."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say to an adapter.

    `address` is the daemon's, its default socket if empty. What was published under another
    `revision` of the weights, or another `salt`, is not found. `deadline_s` is how long blocks
    may take to come.
    """

    address: str = ""
    revision: str = ""
    salt: str = ""
    deadline_s: float = 5.0


def options_of(given: Mapping[str, Any], place: str) -> Options:
    """Return the options in `given`, which may have more than these.

    Raises:
        InvalidRequest: one has a value that it cannot have; `place` is where the user gave it.
    """
    chosen = {each.name: given.get(each.name, each.default) for each in fields(Options)}
    for name, value in chosen.items():
        if name == "deadline_s":
            fits = type(value) in (int, float) and value > 0
            remedy = "give seconds, more than 0"
        else:
            fits = isinstance(value, str)
            remedy = "give a string"
        if not fits:
            raise InvalidRequest(f"{place}.{name}", repr(value), remedy)
    return Options(**chosen)


class Singles:
    """Blocks of one layout, each found by a name that the engine gives it.

    `part` is the shard's rank. Memory that a call is given must stay until the call returns, and
    no longer. While the daemon is away nothing is held and all is declined.

    Concurrency: any method from any thread, until the link is closed.
    """

    def __init__(self, link: Link, layout: LayoutSpec, part: int = 0) -> None:
        self.layout: Final = layout
        self._link: Final = link
        self._part: Final = part
        self._blocks_max: Final = max(1, min(_NAMES_MAX, _BYTES_MAX // layout.part_bytes))

    def held(self, names: Sequence[bytes]) -> list[bool]:
        """Say of each block whether it is held now. Leases nothing.

        The daemon counts the others as missed: engines ask first, and fetch only what is there.
        """
        held = [False] * len(names)
        for start, matched in self._matches(self._keys(names)):
            for place in (*range(matched.blocks), *matched.further):
                held[start + place] = True
        return held

    def held_prefix(self, names: Sequence[bytes]) -> int:
        """Return how many blocks are held, from the first name on, before one is not.

        The others are counted as of `held`.
        """
        count = 0
        for _, matched in self._matches(self._keys(names)):
            count += matched.blocks
            if matched.blocks < _NAMES_MAX:
                break
        return count

    def fetch(
        self, names: Sequence[bytes], into: Sequence[Extents], deadline_s: float
    ) -> list[bool]:
        """Copy blocks into the caller's memory; say of each whether it came.

        That of a block that did not come may hold anything. `deadline_s` is for all together.

        Raises:
            InvalidRequest: the extents of a block are not as large as a part of it.
        """
        came = [False] * len(names)
        kv = self._link.open(self.layout)
        if kv is None:
            return came
        until_s = monotonic() + deadline_s
        keys = self._keys(names)
        for start in range(0, len(keys), self._blocks_max):
            left = list(range(start, min(start + self._blocks_max, len(keys))))
            while left and monotonic() < until_s:
                asked = Apart(keys[place] for place in left)
                fetched = self._bring(kv, asked, [into[place] for place in left], until_s)
                for place in left[: fetched.blocks]:
                    came[place] = True
                if fetched.cut in _NOTHING_MORE:
                    return came
                # If none came, the first is missing, or cannot be read.
                left = self._still_held(kv, keys, left[max(1, fetched.blocks) :], until_s)
        return came

    def publish(self, names: Sequence[bytes], source: Sequence[Extents]) -> list[Published]:
        """Offer blocks; return what came of each.

        After one that was declined, for want of room or of the daemon, all are.

        Raises:
            InvalidRequest: the extents of a block are not as large as a part of it.
        """
        kv = self._link.open(self.layout)
        keys = self._keys(names)
        ends: list[Published] = []
        for start in range(0, len(keys), self._blocks_max):
            if kv is None or len(ends) < start:
                break
            window = slice(start, start + self._blocks_max)
            ends += self._offer(kv, keys[window], source[window])
        return ends + [_DECLINED] * (len(keys) - len(ends))

    def _keys(self, names: Sequence[bytes]) -> Apart:
        return Apart(adopt_keys(self.layout.root, names))

    def _matches(self, keys: Apart) -> Iterator[tuple[int, Matched]]:
        """Yield how much is held of one message's keys after another, with the first's place."""
        kv = self._link.open(self.layout)
        until_s = monotonic() + _LOOKUP_S_MAX
        for start in range(0, len(keys), _NAMES_MAX):
            if kv is None or monotonic() >= until_s:
                return
            yield start, kv.match(keys[start : start + _NAMES_MAX], count_missing=True)

    def _still_held(
        self, kv: Namespace, keys: Apart, places: Sequence[int], until_s: float
    ) -> list[int]:
        """Return those of `places` whose blocks are held, none if there is no time to ask."""
        if not places or monotonic() >= until_s:
            return []
        matched = kv.match(Apart(keys[place] for place in places))
        return [places[at] for at in (*range(matched.blocks), *matched.further)]

    def _bring(
        self, kv: Namespace, keys: Apart, into: Sequence[Extents], until_s: float
    ) -> Fetched:
        """Copy blocks up to the first that is missing."""
        left_s = max(0.0, until_s - monotonic())
        return kv.fetch(keys, self._memory(into), deadline_s=left_s, part=self._part)

    def _offer(self, kv: Namespace, keys: Apart, source: Sequence[Extents]) -> list[Published]:
        """Offer what one message can; return what came of the first blocks, as far as is known."""
        memory = self._memory(source)
        with kv.reserve(keys, part=self._part) as reservation:
            indices = reservation.indices
            # Where there was too little room, those behind the last that found some found none.
            known = len(keys) if not reservation.declined else max(indices, default=-1) + 1
            reservation.write(memory)
            kept = Published(blocks=1) if reservation.seal() == len(indices) else _DECLINED
        ends = dict.fromkeys(range(known), Published(held=1)) | dict.fromkeys(indices, kept)
        return list(ends.values())

    def _memory(self, blocks: Sequence[Extents]) -> Any:
        """Return where blocks lie as a namespace takes it: whole ones can be read into."""
        part_bytes = self.layout.part_bytes
        for extents in blocks:
            size = sum(length for _, length in extents)
            if size != part_bytes:
                raise InvalidRequest("block", f"{size} bytes", f"give {part_bytes}")
        if all(len(extents) == 1 for extents in blocks):
            return [_view(address, size) for [(address, size)] in blocks]
        return Scattered([_placed(extents) for extents in blocks], part_bytes)


def extent_of(buffer: Any) -> Extent:
    """Return where a contiguous buffer lies: it must outlive the use of the address."""
    array = np.frombuffer(buffer, dtype=np.uint8)
    return int(array.ctypes.data), array.nbytes


def _view(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def _placed(extents: Extents) -> list[tuple[int, int, int]]:
    """Return the addresses of a block, each with the place in it of what is there."""
    placed, place = [], 0
    for address, size in extents:
        placed.append((address, place, size))
        place += size
    return placed
