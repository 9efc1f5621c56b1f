"""What went over a route, or wore out a medium, since the start."""

from dataclasses import dataclass


@dataclass(slots=True)
class RouteUse:
    """Totals of one route since the start. `busy_ns`: at least one move was under way."""

    blocks: int = 0
    bytes: int = 0
    busy_ns: int = 0
    failed: int = 0


@dataclass(slots=True)
class Wear:
    """What was written to a tier since the start.

    `payload_bytes` are those of blocks, `medium_bytes` all that the medium had to take for them:
    headers, padding, the pages of the index, and what failed in the end.
    """

    payload_bytes: int = 0
    medium_bytes: int = 0


class Stopwatch:
    """Adds moves to a route's totals; moves that overlap make the route busy once, not twice.

    Busy time is carried forward at each begin and end, so that a route which is never idle shows
    it too: its totals lag by no more than the time since then.
    """

    def __init__(self, use: RouteUse) -> None:
        self._use = use
        self._under_way = 0
        self._counted_to_ns = 0

    def begin(self, now_ns: int) -> None:
        """Note that moves start."""
        self._carry_forward(now_ns)
        self._under_way += 1

    def end(self, now_ns: int, blocks: int, bytes_: int, failed: int) -> None:
        """Note that moves have ended: `blocks` arrived, `bytes_` in all; `failed` did not."""
        assert self._under_way > 0
        self._carry_forward(now_ns)
        self._under_way -= 1
        self._use.blocks += blocks
        self._use.bytes += bytes_
        self._use.failed += failed

    def _carry_forward(self, now_ns: int) -> None:
        if self._under_way:
            self._use.busy_ns += now_ns - self._counted_to_ns
        self._counted_to_ns = now_ns
