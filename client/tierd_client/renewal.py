"""Keeps a lease for as long as its blocks are on their way, or wanted."""

import threading
import time
from typing import Self

from tierd_client.connection import Connection
from tierd_proto.v1 import tierd_pb2 as pb


class Renewal:
    """The renewals of one lease: each after half of its term, while somebody asks for them."""

    def __init__(self, connection: Connection, lease: int, term_s: float) -> None:
        self.connection = connection
        self.lease = lease
        self._term_s = term_s
        self.due_s = time.monotonic() + term_s / 2

    def renew_if_due(self) -> None:
        """Renew the lease if half of its term has passed. Not waited for."""
        now_s = time.monotonic()
        if now_s >= self.due_s:
            self.connection.stream.tell(renew=pb.Renew(lease=self.lease))
            self.due_s = now_s + self._term_s / 2


class Held:
    """The longest held prefix of a chain, leased where it is. Nothing was read or moved.

    For an engine whose scheduler asks what there is and whose workers fetch it later: until
    `release`, which leaving the context calls, no block of it goes. `blocks` says how many there
    are, 0 being an ordinary answer, and `by_tier` where they are best read. A lease that nobody
    renews runs out in the daemon's `leases.read_s`, and with it the promise.

    Concurrency: any thread.
    """

    def __init__(self, blocks: int, by_tier: dict[str, int], renewal: Renewal | None) -> None:
        self.blocks = blocks
        self.by_tier = by_tier
        self._lock = threading.Lock()
        self._renewal = renewal

    def renew(self) -> None:
        """Prolong the lease if half of its term is over. Not waited for."""
        with self._lock:
            if self._renewal is not None:
                self._renewal.renew_if_due()

    def release(self) -> None:
        """End the lease. Safe to call twice."""
        with self._lock:
            renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.connection.release(renewal.lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
