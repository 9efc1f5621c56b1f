"""How much may be written to a medium that wears out: a token bucket of bytes."""

from typing import Final

from tierd.core.units import NS_PER_S

NS_PER_DAY: Final = 24 * 3600 * NS_PER_S

_BURSTS_PER_DAY: Final = 24
"""The bucket holds an hour's share: enough for a busy minute, too little to wear out a day's."""


class WriteBudget:
    """`bytes_per_day`, spread evenly, with an hour's share in hand; 0 is no limit.

    What must be written is written and owed: the mean holds, whatever was urgent. Nothing is
    rounded, so what is allowed does not depend on how often it is asked.
    """

    def __init__(self, bytes_per_day: int) -> None:
        self.bytes_per_day = bytes_per_day
        self._burst = bytes_per_day * NS_PER_DAY // _BURSTS_PER_DAY
        self._level = self._burst  # in bytes times nanoseconds of a day
        self._filled_ns: int | None = None

    def allows(self, now_ns: int) -> bool:
        """Say whether anything may be written at `now_ns` that need not be."""
        return self.left_bytes(now_ns) > 0 or not self.bytes_per_day

    def spend(self, size: int) -> None:
        """Note that `size` bytes are to be written."""
        if self.bytes_per_day:
            self._level -= size * NS_PER_DAY

    def left_ratio(self, now_ns: int) -> float:
        """Return what is in hand as a share of the most that can be; without a limit 1."""
        if not self.bytes_per_day:
            return 1.0
        return self.left_bytes(now_ns) * NS_PER_DAY / self._burst

    def left_bytes(self, now_ns: int) -> int:
        """Return what is in hand at `now_ns`; below 0 it is owed; without a limit 0."""
        if self._filled_ns is not None:
            filled = (now_ns - self._filled_ns) * self.bytes_per_day
            self._level = min(self._burst, self._level + filled)
        self._filled_ns = now_ns
        return self._level // NS_PER_DAY
