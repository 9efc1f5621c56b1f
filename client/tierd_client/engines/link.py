"""A connection to a daemon that may not be there yet: engines start without it."""

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from tierd.core.addresses import parse_address
from tierd.core.errors import DaemonUnreachable, TierdError
from tierd.core.layouts import LayoutSpec
from tierd_client.client import Client, connect
from tierd_client.namespace import Namespace

_FIRST_WAIT_S: Final = 2.0
_RETRY_S_MIN: Final = 0.05
_RETRY_S_MAX: Final = 1.0

log = logging.getLogger("tierd.client")


class Link:
    """A client of the daemon at `address`, from when the daemon is first there.

    It is tried for up to `_FIRST_WAIT_S` before this returns, and in the background from then on.
    Once it was reached, the client finds it again by itself. `spaces` are the namespaces of
    `layouts`, in their order: none until the daemon was reached, if it refuses one, and after
    `close`. `name` is for the daemon's logs.

    Concurrency: any thread.

    Raises:
        InvalidRequest: `address` is none.
    """

    def __init__(self, address: str, name: str, layouts: Sequence[LayoutSpec] = ()) -> None:
        parse_address(address)
        self.address: Final = address
        self.spaces: tuple[Namespace, ...] = ()
        self._name: Final = name
        self._layouts: Final = layouts
        self._client: Client | None = None
        self._opened: dict[LayoutSpec, Namespace | None] = {}
        self._opening: Final = threading.Lock()
        self._lock: Final = threading.Lock()
        self._closed: Final = threading.Event()
        self._is_missed = False
        self._seeker: Final = threading.Thread(target=self._seek, name="tierd-link", daemon=True)
        self._seeker.start()
        self._seeker.join(_FIRST_WAIT_S)
        if self._seeker.is_alive():
            self._is_missed = True
            log.warning("no daemon answers yet: %s starts without its blocks", name)

    @property
    def client(self) -> Client | None:
        """The client; None until the daemon was reached, and after `close`."""
        return self._client

    def open(self, layout: LayoutSpec) -> Namespace | None:
        """Return the namespace of `layout`, the same one each time.

        None while there is no client, and from when the daemon refused it, which is logged. The
        first call waits for the daemon.
        """
        with self._opening:
            client = self._client
            if client is None:
                return None
            if layout not in self._opened:
                try:
                    self._opened[layout] = client.open(layout)
                except TierdError as error:
                    self._opened[layout] = None
                    log.error("the daemon does not take the blocks of %s: %s", self._name, error)
            return self._opened[layout]

    def maps(self, tiers: Iterable[str]) -> bool:
        """Say whether this process sees the bytes of all these tiers in its own memory."""
        client = self._client
        return client is not None and client.maps(tiers)

    def close(self) -> None:
        """End the session. Safe to call twice.

        Waits for an attempt under way: seconds, where there is a daemon that does not answer.
        """
        self._closed.set()
        with self._lock:
            client, self._client = self._client, None
            self.spaces = ()
        if client is not None:
            client.close()
        self._seeker.join()

    def _seek(self) -> None:
        retry_s = _RETRY_S_MIN
        while not self._closed.is_set():
            try:
                client = connect(self.address, 0.0, self._name)
            except DaemonUnreachable:
                self._closed.wait(retry_s)
                retry_s = min(2 * retry_s, _RETRY_S_MAX)
                continue
            self._use(client)
            return

    def _use(self, client: Client) -> None:
        with self._lock:
            is_late = self._closed.is_set()
            self._client = None if is_late else client
        if is_late:
            client.close()
            return
        spaces = [space for layout in self._layouts if (space := self.open(layout)) is not None]
        with self._lock:
            if len(spaces) == len(self._layouts) and not self._closed.is_set():
                self.spaces = tuple(spaces)
        if self._is_missed:
            # As loud as what it takes back.
            log.warning("the daemon answers now: %s goes on with its blocks", self._name)
