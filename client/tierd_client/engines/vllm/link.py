"""A connection to a daemon that may not be there yet."""

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from tierd.core.errors import DaemonUnreachable, TierdError
from tierd.core.layouts import LayoutSpec
from tierd_client.client import Client, connect
from tierd_client.namespace import Namespace

_FIRST_WAIT_S: Final = 2.0
_RETRY_S: Final = 2.0

log = logging.getLogger("vllm.tierd")


class Link:
    """Namespaces at a daemon, as soon as there is one. An engine starts without it, and misses.

    `spaces` is empty until then. Once reached, a client finds its daemon again by itself.

    Raises:
        InvalidRequest: `address` is none.
    """

    def __init__(self, address: str, name: str, layouts: Sequence[LayoutSpec]) -> None:
        self._address = address
        self._name = name
        self._layouts = layouts
        self._closed = threading.Event()
        self._client: Client | None = None
        self.spaces: tuple[Namespace, ...] = ()
        if not self._reach(_FIRST_WAIT_S):
            log.warning("no daemon answers yet: %s starts without its blocks", name)
            threading.Thread(target=self._retry, name="tierd-link", daemon=True).start()

    def maps(self, tiers: Iterable[str]) -> bool:
        """Say whether this process sees the bytes of all these tiers in its own memory."""
        connection = self._client.connection() if self._client else None
        if connection is None or not connection.maps_all:
            return False
        mapped = dict(zip(connection.tiers, connection.mapped, strict=True))
        return all(mapped.get(tier, False) for tier in tiers)

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._closed.set()
        self.spaces = ()
        if self._client is not None:
            self._client.close()

    def _reach(self, wait_s: float) -> bool:
        """Try once; return False if it is to be tried again."""
        try:
            client = connect(self._address, wait_s, self._name)
        except DaemonUnreachable:
            return False
        try:
            spaces = tuple(client.open(layout) for layout in self._layouts)
        except TierdError as error:
            log.error("the daemon refuses this engine's cache: %s", error)
            client.close()
            return True
        self._client, self.spaces = client, spaces
        if self._closed.is_set():
            self.close()
        return True

    def _retry(self) -> None:
        while not self._closed.wait(_RETRY_S):
            if self._reach(0.0):
                log.info("the daemon answers: %s has its blocks", self._name)
                return
