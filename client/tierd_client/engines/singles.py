"""Blocks that an engine names one by one, without the chain that leads to them.

An engine that keeps a cache of its own asks for what comes after it, and does not say what is in
it, or not wholly. Its name of a block, a hash, stands for everything before the block; so blocks
are kept `Apart`: each is found by itself, and right by its name. What is given up is that a chain
loses its end first: of the blocks of one call alone the last ones go first.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from time import monotonic
from typing import Any, Final

import numpy as np

from tierd.core.addresses import parse_address
from tierd.core.errors import DaemonUnreachable, InvalidRequest, TierdError
from tierd.core.keys import adopt_keys
from tierd.core.layouts import LayoutSpec
from tierd_client.apart import Apart
from tierd_client.buffers import copy
from tierd_client.client import Client, connect
from tierd_client.namespace import Namespace
from tierd_client.results import Matched, Published

_NAMES_MAX: Final = 1024
"""Names in one message."""

_BYTES_MAX: Final = 256 << 20
"""Bytes of blocks in one message: until they are copied they are leased, and perhaps copied once
more."""

_LOOKUP_S_MAX: Final = 5.0
"""How long a daemon that does not answer holds up a lookup: no call begins later."""

_DECLINED: Final = Published(declined=1)

log = logging.getLogger("tierd.client")

Buffers = Sequence[Any]
"""The buffers of plain bytes that together hold one block, in the order of its bytes."""


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


class Link:
    """A client of the daemon at `address` from when the daemon is first there.

    An engine starts without the daemon, too; it is tried for up to `wait_s` before this returns,
    and in the background from then on.

    Concurrency: any thread.

    Raises:
        InvalidRequest: `address` is none.
    """

    def __init__(self, address: str, name: str, wait_s: float = 2.0) -> None:
        parse_address(address)
        self.address: Final = address
        self._name: Final = name
        self._client: Client | None = None
        self._lock: Final = threading.Lock()
        self._closed: Final = threading.Event()
        seeker = threading.Thread(target=self._seek, name="tierd-link", daemon=True)
        seeker.start()
        seeker.join(wait_s)
        if seeker.is_alive():
            log.warning("no daemon at %s; the engine goes on without", address or "the default")

    @property
    def client(self) -> Client | None:
        """The client; None until the daemon was reached, and after `close`."""
        return self._client

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._closed.set()
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _seek(self) -> None:
        while not self._closed.is_set():
            try:
                client = connect(self.address, wait_s=1.0, name=self._name)
            except DaemonUnreachable:
                continue
            with self._lock:
                if not self._closed.is_set():
                    self._client = client
                    return
            client.close()


class Singles:
    """Blocks of one layout, each found by a name that the engine gives it.

    `part` is the shard's rank. While the daemon is away nothing is held and all is declined.

    Concurrency: any method from any thread, until the link is closed.
    """

    def __init__(self, link: Link, layout: LayoutSpec, part: int = 0) -> None:
        self.layout: Final = layout
        self._link: Final = link
        self._part: Final = part
        self._blocks_max: Final = max(1, min(_NAMES_MAX, _BYTES_MAX // layout.part_bytes))
        self._lock: Final = threading.Lock()
        self._kv: Namespace | None = None
        self._refused = False

    def held(self, names: Sequence[bytes]) -> list[bool]:
        """Say of each block whether it is held now. Leases nothing."""
        held = [False] * len(names)
        for start, matched in self._matches(self._keys(names)):
            for place in (*range(matched.blocks), *matched.further):
                held[start + place] = True
        return held

    def held_prefix(self, names: Sequence[bytes]) -> int:
        """Return how many blocks are held, from the first name on, before one is not."""
        count = 0
        for _, matched in self._matches(self._keys(names)):
            count += matched.blocks
            if matched.blocks < _NAMES_MAX:
                break
        return count

    def fetch(
        self, names: Sequence[bytes], into: Sequence[Buffers], deadline_s: float
    ) -> list[bool]:
        """Copy blocks into the caller's buffers; say of each whether it came.

        Those of a block that did not come may hold anything. `deadline_s` is for all together.
        """
        came = [False] * len(names)
        kv = self._opened()
        if kv is None:
            return came
        until_s = monotonic() + deadline_s
        keys = self._keys(names)
        for start in range(0, len(keys), self._blocks_max):
            left = list(range(start, min(start + self._blocks_max, len(keys))))
            while left and monotonic() < until_s:
                asked = Apart(keys[place] for place in left)
                count = self._bring(kv, asked, [into[place] for place in left], until_s)
                for place in left[:count]:
                    came[place] = True
                # If none came, the first is missing, or cannot be read.
                left = self._still_held(kv, keys, left[max(1, count) :], until_s)
        return came

    def publish(self, names: Sequence[bytes], source: Sequence[Buffers]) -> list[Published]:
        """Offer blocks; return what came of each.

        After one that was declined, for want of room or of the daemon, all are.
        """
        kv = self._opened()
        keys = self._keys(names)
        ends: list[Published] = []
        for start in range(0, len(keys), self._blocks_max):
            if kv is None or len(ends) < start:
                break
            window = slice(start, start + self._blocks_max)
            ends += self._offer(kv, keys[window], source[window])
        return ends + [_DECLINED] * (len(keys) - len(ends))

    def _opened(self) -> Namespace | None:
        """Return the namespace; None as long as there has been no daemon to open it."""
        with self._lock:
            client = self._link.client
            if self._kv is None and client is not None and not self._refused:
                try:
                    self._kv = client.open(self.layout)
                except TierdError as error:
                    self._refused = True
                    log.error("the daemon does not take these blocks: %s", error)
            return self._kv

    def _keys(self, names: Sequence[bytes]) -> Apart:
        return Apart(adopt_keys(self.layout.root, names))

    def _matches(self, keys: Apart) -> Iterator[tuple[int, Matched]]:
        """Yield how much is held of one message's keys after another, with the first's place."""
        kv = self._opened()
        until_s = monotonic() + _LOOKUP_S_MAX
        for start in range(0, len(keys), _NAMES_MAX):
            if kv is None or monotonic() >= until_s:
                return
            yield start, kv.match(keys[start : start + _NAMES_MAX])

    def _still_held(
        self, kv: Namespace, keys: Apart, places: Sequence[int], until_s: float
    ) -> list[int]:
        """Return those of `places` whose blocks are held, none if there is no time to ask."""
        if not places or monotonic() >= until_s:
            return []
        matched = kv.match(Apart(keys[place] for place in places))
        return [places[at] for at in (*range(matched.blocks), *matched.further)]

    def _bring(self, kv: Namespace, keys: Apart, into: Sequence[Buffers], until_s: float) -> int:
        """Copy blocks up to the first that is missing; return how many came."""
        left_s = max(0.0, until_s - monotonic())
        if all(len(buffers) == 1 for buffers in into):
            whole = [buffer for buffers in into for buffer in buffers]
            return kv.fetch(keys, whole, deadline_s=left_s, part=self._part).blocks
        with kv.fetch_views(keys, deadline_s=left_s, part=self._part) as views:
            for view, buffers in zip(views, into, strict=False):
                source = _address(view)
                for buffer in buffers:
                    copy(_address(buffer), source, len(buffer))
                    source += len(buffer)
            return len(views) if views.valid() else 0

    def _offer(self, kv: Namespace, keys: Apart, source: Sequence[Buffers]) -> list[Published]:
        """Offer what one message can; return what came of the first blocks, as far as is known."""
        with kv.reserve(keys, part=self._part) as reservation:
            indices = reservation.indices
            # Where there was too little room, those behind the last that found some found none.
            known = len(keys) if not reservation.declined else max(indices, default=-1) + 1
            for index, view in zip(indices, reservation.views, strict=True):
                target = _address(view)
                for buffer in source[index]:
                    copy(target, _address(buffer), len(buffer))
                    target += len(buffer)
            kept = Published(blocks=1) if reservation.seal() == len(indices) else _DECLINED
        ends = dict.fromkeys(range(known), Published(held=1)) | dict.fromkeys(indices, kept)
        return list(ends.values())


def _address(buffer: Any) -> int:
    return int(np.frombuffer(buffer, dtype=np.uint8).ctypes.data)
