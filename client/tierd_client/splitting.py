"""Dual-path loading: which routes a fetch takes from disk, and which blocks go by which.

`Splitter` chooses the routes from what earlier fetches reached; `TwoEnded` deals out the blocks
of one fetch. Neither knows a clock, a thread or a file: `fetching` does what they say.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tierd.core.units import MiB
from tierd_client.placement import PlacedRun

Route = Literal["auto", "staged", "direct"]
"""How blocks on disk come: through the daemon's memory, read by this process, or whatever is
faster."""

Way = Literal["staged", "direct"]
Arm = Literal["both", "staged", "direct", "none"]

PIECE_BYTES: Final = 4 * MiB
"""What one direct read takes at most: enough for the device, little enough to share out."""

DIRECT_READS_MAX: Final = 4
"""Direct reads of one fetch under way at once."""

_SPLIT_BYTES_MIN: Final = 2 * PIECE_BYTES
"""Less is not split: two routes to start would cost more than they bring."""

_LEARN_BYTES_MIN: Final = 4 * PIECE_BYTES
_WINDOW_BYTES_MAX: Final = 32 * MiB
_WINDOW_S: Final = 0.06
"""What a route is given ahead: so many seconds of it, or so many bytes. Half as long let the
staged route starve on a busy machine."""

_BLOCKS_MAX: Final = (1 << 32) - 1

_RATE_UNKNOWN: Final = 1e9
_NEWEST: Final = 0.3
"""Weight of the newest rate in the running mean."""

_GAIN_MIN: Final = 1.10
"""Both routes must beat the better one by this, to be worth the threads."""

_TIE: Final = 1.03
"""The staged route is taken where the direct one is not faster than this: it leaves the blocks in
memory for the next turn."""

_SHARE_MIN: Final = 0.3
"""A route that brought less than this of a split is not tried alone: it would take too long."""

_PATIENCE_MIN: Final = 16
_PATIENCE_MAX: Final = 256
"""Fetches between two looks at what was not the best way. It doubles while that stays so."""

_DECLINED_MAX: Final = 32
"""So many fetches in a row are spared a slow disk, before one finds out whether it still is."""

_BACKOFF_S_MIN: Final = 1.0
_BACKOFF_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Split:
    """How one fetch goes about its blocks on disk, and why.

    `rates` are bytes a second that each route is expected to reach.
    """

    arm: Arm
    rates: dict[Way, float]
    why: str

    def stage_blocks(self, block_bytes: int) -> int:
        """Return how many blocks the daemon is to bring before it has heard more."""
        if self.arm == "both":
            return window_bytes(self.rates["staged"], block_bytes) // block_bytes
        return _BLOCKS_MAX if self.arm == "staged" else 0


def window_bytes(rate: float, block_bytes: int) -> int:
    """Return how much is asked of the staged route ahead."""
    return int(min(_WINDOW_BYTES_MAX, max(2 * block_bytes, _WINDOW_S * rate)))


@dataclass(slots=True)
class _Looked:
    """What one arm reached, when it was looked at last, and when it is to be again."""

    rate: float = 0.0
    at: int = 0
    patience: int = _PATIENCE_MIN

    def learn(self, rate: float, now: int) -> None:
        self.rate = rate if not self.rate else self.rate + _NEWEST * (rate - self.rate)
        self.at = now


@dataclass(slots=True)
class _Demotion:
    until_s: float
    backoff_s: float
    cause: str


class Splitter:
    """Chooses between both routes and one, for all fetches of one layout over one connection.

    Two routes that share their bottleneck bring no more than one: this is noticed, and from then
    on only looked at again now and then, with growing patience. A route that fails is left out
    until its time is over, twice as long with each failure, and takes part again as one of two:
    the other takes over what it does not finish.

    Concurrency: one call at a time; the caller has a lock.
    """

    def __init__(self) -> None:
        self._arms: dict[Arm, _Looked] = {}
        self._ways: dict[Way, _Looked] = {"staged": _Looked(), "direct": _Looked()}
        self._demoted: dict[Way, _Demotion] = {}
        self._fetches = 0
        self._arm: Arm = "staged"
        self._disk = _Looked()
        self._declined = 0

    def choose(self, route: Route, size: int, now_s: float, worth_rate: float = 0.0) -> Split:
        """Return how to fetch up to `size` bytes.

        A disk that has brought less than `worth_rate` bytes a second is not read.
        """
        arm: Arm
        if 0 < self._disk.rate < worth_rate and self._declined < _DECLINED_MAX:
            self._declined += 1
            found = f"{self._disk.rate / 1e9:.3g} GB/s, worth it from {worth_rate / 1e9:.3g} on"
            arm, why = "none", f"the disk is slower than computing: {found}"
        else:
            self._declined = 0
            arm, why = self._choose(route, size, now_s)
        rates = {way: looked.rate or _RATE_UNKNOWN for way, looked in self._ways.items()}
        return Split(arm, rates, why)

    def learn(self, arm: Arm, seconds: float, moved: dict[Way, int]) -> None:
        """Note what a fetch reached: the bytes that each route brought in its `seconds`."""
        total = sum(moved.values())
        if not total or seconds <= 0:
            return
        self._disk.learn(total / seconds, self._fetches)
        if total < _LEARN_BYTES_MIN:
            return
        self._fetches += 1
        for way, size in moved.items():
            if size:
                self._ways[way].learn(size / seconds, self._fetches)
                self._demoted.pop(way, None)
        # What was meant, and what was possible, may differ: a full entry tier stages nothing.
        used: Arm = "both" if all(moved.values()) else "staged" if moved["staged"] else "direct"
        if used != arm:
            return
        looked = self._arms.setdefault(arm, _Looked())
        looked.learn(total / seconds, self._fetches)
        if arm != self._arm:
            looked.patience = min(_PATIENCE_MAX, 2 * looked.patience)

    def demote(self, way: Way, cause: str, now_s: float) -> None:
        """Leave a route out for a while that has failed."""
        before = self._demoted.get(way)
        backoff_s = min(_BACKOFF_S_MAX, 2 * before.backoff_s) if before else _BACKOFF_S_MIN
        self._demoted[way] = _Demotion(now_s + backoff_s, backoff_s, cause)

    def _choose(self, route: Route, size: int, now_s: float) -> tuple[Arm, str]:
        if route != "auto":
            return route, "asked for"
        down = {way: d for way, d in self._demoted.items() if now_s < d.until_s}
        if "direct" in down:
            return "staged", f"direct left out after a failure: {down['direct'].cause}"
        if "staged" in down:
            return "direct", f"staged left out after a failure: {down['staged'].cause}"
        if size < _SPLIT_BYTES_MIN:
            return "staged", "too little to split"
        if self._demoted:
            return "both", f"{next(iter(self._demoted))} on trial after a failure"
        if "both" not in self._arms:
            return "both", "first look at both together"
        if "staged" not in self._arms and self._is_worth_a_look():
            return "staged", "first look at staged alone"
        self._arm = self._best()
        if (other := self._overdue()) is not None:
            return other, f"another look at {other}; {self._rates()}"
        return self._arm, self._rates()

    def _is_worth_a_look(self) -> bool:
        """Say whether the staged route alone may be as fast as both."""
        total = sum(looked.rate for looked in self._ways.values())
        return self._ways["staged"].rate >= _SHARE_MIN * total

    def _best(self) -> Arm:
        both = self._arms["both"].rate
        alone: list[Arm] = ["staged", "direct"]
        known = [arm for arm in alone if arm in self._arms]
        single = max(known, key=lambda arm: self._arms[arm].rate, default=None)
        if single is None or both > _GAIN_MIN * self._arms[single].rate:
            return "both"
        # Of two that are alike, the one that leaves the blocks in memory.
        staged = self._arms.get("staged")
        if staged is not None and _TIE * staged.rate > self._arms[single].rate:
            return "staged"
        return single

    def _overdue(self) -> Arm | None:
        """Return what is not the best way and was not looked at for long."""
        other: Arm = "staged" if self._arm == "both" else "both"
        looked = self._arms.get(other)
        if looked is None or self._fetches - looked.at < looked.patience:
            return None
        if other == "staged" and not self._is_worth_a_look():
            return None
        return other

    def _rates(self) -> str:
        order: list[Arm] = ["both", "staged", "direct"]
        rates = [f"{arm} {self._arms[arm].rate / 1e9:.2f}" for arm in order if arm in self._arms]
        shared = self._arm != "both"
        reason = "both share one bottleneck" if shared else "both together are faster"
        return f"{reason}, GB/s: {', '.join(rates)}"


@dataclass(slots=True)
class _Progress:
    """What one route of one fetch has under way, and what it has brought."""

    rate: float
    under_way: int = 0
    moved: int = 0

    def start(self, size: int) -> None:
        self.under_way += size

    def end(self, size: int, brought: int, seconds: float) -> None:
        self.under_way -= size
        self.moved += brought
        if self.moved >= PIECE_BYTES and seconds > 0:
            self.rate = max(1.0, self.moved / seconds)

    def seconds(self, more: int) -> float:
        """Return how long the route takes for what it has and `more` bytes."""
        return (self.under_way + more) / self.rate


class TwoEnded:
    """Deals the blocks of one fetch to two routes, from the two ends, until they meet.

    The staged route takes from the front, the direct one from the back. Neither takes what the
    other, with all the rest to do besides, would have done sooner: so both end together, and a
    wrong estimate corrects itself as the rates are measured.

    Source: two-ended loading after Cake (ICML 2025), with guided self-scheduling's shrinking
    pieces (Polychronopoulos and Kuck, 1987).

    Concurrency: one call at a time; the caller has a lock.
    """

    def __init__(self, runs: Sequence[PlacedRun], block_bytes: int, split: Split) -> None:
        self._runs = deque(runs)
        self._block_bytes = block_bytes
        self._left = sum(run.count for run in runs) * block_bytes
        self._routes = {
            "staged": _Progress(split.rates["staged"]),
            "direct": _Progress(split.rates["direct"]),
        }
        self.uses_staged = split.arm != "direct"
        self.uses_direct = split.arm != "staged"

    @property
    def moved(self) -> dict[Way, int]:
        """Return the bytes that each route has brought."""
        return {
            "staged": self._routes["staged"].moved,
            "direct": self._routes["direct"].moved,
        }

    @property
    def is_empty(self) -> bool:
        return not self._runs

    def expected_s(self, way: Way) -> float:
        """Return how long a route should take for what it has under way."""
        return self._routes[way].seconds(0)

    def started(self, way: Way, blocks: int) -> None:
        """Note that blocks are under way that were not taken from here."""
        self._routes[way].start(blocks * self._block_bytes)

    def ended(self, way: Way, blocks: int, brought: int, seconds: float) -> None:
        """Note that a route is done with `blocks`, of which it brought some, after `seconds`."""
        size = self._block_bytes
        self._routes[way].end(blocks * size, brought * size, seconds)

    def take_front(self) -> list[PlacedRun]:
        """Return what the staged route is to bring next; nothing while it has enough to do."""
        route = self._routes["staged"]
        window = window_bytes(route.rate, self._block_bytes)
        taken = []
        while self.uses_staged and self._runs and route.under_way < window:
            wanted = self._blocks(window - route.under_way)
            run = self._runs[0]
            count = min(run.count, wanted)
            if not self._is_sooner("staged", count):
                count = 1
                if not self._is_sooner("staged", count):
                    break
            self._cut_front(count)
            route.start(count * self._block_bytes)
            taken.append(run.part(run.first, count))
        return taken

    def take_back(self, count_max: int) -> PlacedRun | None:
        """Return neighbours for one direct read; None when the direct route is to end.

        With the direct route alone they come from the front: what is cut off by a deadline is
        then the chain's end.
        """
        if not (self.uses_direct and self._runs):
            return None
        route = self._routes["direct"]
        run = self._runs[-1] if self.uses_staged else self._runs[0]
        piece = min(PIECE_BYTES, _WINDOW_S * route.rate)
        count = min(run.count, count_max, self._blocks(piece))
        if not self._is_sooner("direct", count):
            count = 1
            if not self._is_sooner("direct", count):
                return None
        route.start(count * self._block_bytes)
        if not self.uses_staged:
            self._cut_front(count)
            return run.part(run.first, count)
        self._cut_back(count)
        return run.part(run.first + run.count - count, count)

    def give_back(self, run: PlacedRun) -> None:
        """Have blocks dealt out again that a route has not brought."""
        self._runs = deque(sorted([*self._runs, run], key=lambda each: each.first))
        self._left += run.count * self._block_bytes

    def drop_from(self, index: int) -> None:
        """Deal out no block from `index` on: the prefix ends before it."""
        kept = [run.part(run.first, min(run.count, index - run.first)) for run in self._runs]
        self._runs = deque(run for run in kept if run.count > 0)
        self._left = sum(run.count for run in self._runs) * self._block_bytes

    def leave_to(self, way: Way) -> None:
        """Deal out nothing more but to one route."""
        self.uses_staged = way == "staged"
        self.uses_direct = way == "direct"

    def _blocks(self, size: float) -> int:
        return max(1, int(size) // self._block_bytes)

    def _is_sooner(self, way: Way, count: int) -> bool:
        """Say whether a route has `count` blocks before the other would, having all the rest."""
        other: Way = "direct" if way == "staged" else "staged"
        if not (self.uses_staged and self.uses_direct):
            return True
        size = count * self._block_bytes
        return self._routes[way].seconds(size) <= self._routes[other].seconds(self._left)

    def _cut_front(self, count: int) -> None:
        run = self._runs.popleft()
        self._left -= count * self._block_bytes
        if count < run.count:
            self._runs.appendleft(run.part(run.first + count, run.count - count))

    def _cut_back(self, count: int) -> None:
        run = self._runs.pop()
        self._left -= count * self._block_bytes
        if count < run.count:
            self._runs.append(run.part(run.first, run.count - count))
