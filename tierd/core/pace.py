"""How long a medium of a given rate would take, for those who slow a faster one down to it."""

from tierd.core.units import NS_PER_S


class Pace:
    """One queue, served in order at `bytes_per_s`. Time saved while it is empty is lost.

    Concurrency: none of its own; a caller with several threads brings a lock.
    """

    def __init__(self, bytes_per_s: int) -> None:
        assert bytes_per_s > 0
        self._bytes_per_s = bytes_per_s
        self._free_ns = 0
        self.bytes = 0

    def book(self, size: int, now_ns: int) -> int:
        """Add a transfer to the queue; return when it is over. Units: bytes, nanoseconds."""
        self.bytes += size
        self._free_ns = max(self._free_ns, now_ns) + size * NS_PER_S // self._bytes_per_s
        return self._free_ns
