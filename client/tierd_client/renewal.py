"""Keeps a lease for as long as its blocks are on their way."""

import time

from tierd_client.connection import Connection
from tierd_client.loader import Leased
from tierd_proto.v1 import tierd_pb2 as pb


class Renewal:
    """The renewals of one lease: each after half of its term, while somebody asks for them."""

    def __init__(self, connection: Connection, leased: Leased) -> None:
        self._connection = connection
        self._leased = leased
        self.due_s = time.monotonic() + leased.term_s / 2

    def renew_if_due(self) -> None:
        """Renew the lease if half of its term has passed. Not waited for."""
        now_s = time.monotonic()
        if now_s >= self.due_s:
            self._connection.stream.tell(renew=pb.Renew(lease=self._leased.lease))
            self.due_s = now_s + self._leased.term_s / 2
