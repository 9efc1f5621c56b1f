"""Blocks that an engine names one by one, without the chain that leads to them.

An engine that keeps a cache of its own asks for what comes after it, and does not say what is in
it, or not wholly. Its name of a block, a hash, stands for everything before the block; so each
block is kept as a chain of one: found by itself, and right by its name. What is given up is that
a chain loses its end first. Blocks are therefore touched from the last to the first, so that of
one request's blocks the first stay longest.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from time import monotonic
from typing import Any, Final, TypeVar

import numpy as np

from tierd.core.addresses import parse_address
from tierd.core.errors import DaemonUnreachable, InvalidRequest, TierdError
from tierd.core.keys import BlockKey, adopt_keys
from tierd.core.layouts import LayoutSpec
from tierd_client.buffers import copy
from tierd_client.client import Client, connect
from tierd_client.namespace import Namespace
from tierd_client.results import Published

_CALLS_MAX: Final = 4
"""Calls under way at once: more keep the interpreter busier than the daemon."""

_WINDOW: Final = 32
"""Names that are looked up before what was found is looked at."""

_LOOKUP_S_MAX: Final = 5.0
"""How long a daemon that does not answer holds up a lookup: no call begins later."""

_DECLINED: Final = Published(declined=1)

log = logging.getLogger("tierd.client")

Buffers = Sequence[Any]
"""The buffers of plain bytes that together hold one block, in the order of its bytes."""

T = TypeVar("T")
U = TypeVar("U")


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
        self.helpers: Final = ThreadPoolExecutor(_CALLS_MAX, thread_name_prefix="tierd-singles")
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
        self.helpers.shutdown()

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
        self._lock: Final = threading.Lock()
        self._kv: Namespace | None = None
        self._refused = False

    def held(self, names: Sequence[bytes]) -> list[bool]:
        """Say of each block whether it is held now. Leases nothing."""
        kv = self._opened()
        if kv is None:
            return [False] * len(names)
        until_s = monotonic() + _LOOKUP_S_MAX
        return self._each(lambda key: _is_held(kv, key, until_s), self._keys(names))

    def held_prefix(self, names: Sequence[bytes]) -> int:
        """Return how many blocks are held, from the first name on, before one is not."""
        for start in range(0, len(names), _WINDOW):
            held = self.held(names[start : start + _WINDOW])
            if not all(held):
                return start + held.index(False)
        return len(names)

    def fetch(
        self, names: Sequence[bytes], into: Sequence[Buffers], deadline_s: float
    ) -> list[bool]:
        """Copy blocks into the caller's buffers; say of each whether it came.

        Those of a block that did not come may hold anything. `deadline_s` is for all together.
        """
        kv = self._opened()
        if kv is None:
            return [False] * len(names)
        until_s = monotonic() + deadline_s
        wanted = list(zip(self._keys(names), into, strict=True))
        came = self._each(lambda each: self._bring(kv, *each, until_s), wanted[::-1])
        return came[::-1]

    def publish(self, names: Sequence[bytes], source: Sequence[Buffers]) -> list[Published]:
        """Offer blocks; return what came of each.

        Nobody waits for this, so it goes one by one, and leaves the helpers to those who wait.
        After one that was declined, for want of room or of the daemon, all are.
        """
        kv = self._opened()
        ends: list[Published] = []
        if kv is not None:
            for key, buffers in zip(self._keys(names), source, strict=True):
                ends.append(self._offer(kv, key, buffers))
                if ends[-1].declined:
                    break
        return ends + [_DECLINED] * (len(names) - len(ends))

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

    def _keys(self, names: Sequence[bytes]) -> list[BlockKey]:
        return adopt_keys(self.layout.root, names)

    def _each(self, call: Callable[[T], U], items: Sequence[T]) -> list[U]:
        if len(items) == 1:
            return [call(items[0])]
        return list(self._link.helpers.map(call, items))

    def _bring(self, kv: Namespace, key: BlockKey, into: Buffers, until_s: float) -> bool:
        left_s = until_s - monotonic()
        if left_s <= 0:
            return False
        if len(into) == 1:
            return kv.fetch([key], into, deadline_s=left_s, part=self._part).blocks == 1
        with kv.fetch_views([key], deadline_s=left_s, part=self._part) as views:
            if not len(views):
                return False
            source = _address(views[0])
            for buffer in into:
                copy(_address(buffer), source, len(buffer))
                source += len(buffer)
            return views.valid()

    def _offer(self, kv: Namespace, key: BlockKey, source: Buffers) -> Published:
        with kv.reserve([key], part=self._part) as reservation:
            if not reservation.indices:
                return _DECLINED if reservation.declined else Published(held=1)
            target = _address(reservation.views[0])
            for buffer in source:
                copy(target, _address(buffer), len(buffer))
                target += len(buffer)
            return Published(blocks=1) if reservation.seal() else _DECLINED


def _is_held(kv: Namespace, key: BlockKey, until_s: float) -> bool:
    return monotonic() < until_s and kv.match([key]).blocks == 1


def _address(buffer: Any) -> int:
    return int(np.frombuffer(buffer, dtype=np.uint8).ctypes.data)
