"""Which chains to bring to the entry tier before they are asked for, and when.

A prefetch policy hears what happens and is asked what is due. Times are monotonic nanoseconds.
Whether there is room, and whether demand goes first, is left to control. A conversation is known
by its chain: its next fetch continues the chain after which it paused.
"""

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState

Chain = Sequence[BlockKey]


class OnHint:
    """Prefetch what clients ask for at once, and nothing else.

    Units: O(1); at most `chains_max` wait, beyond that the oldest hint is dropped.

    Source: the prefetch hint of SGLang's RFC 27574.
    """

    def __init__(self, chains_max: int = 256) -> None:
        self._chains_max = chains_max
        self._hinted: OrderedDict[BlockKey, Chain] = OrderedDict()

    def hinted(self, chain: Chain) -> None:
        """Note that a client says that `chain` will be fetched soon."""
        if chain:
            self._hinted.setdefault(chain[-1], chain)
        if len(self._hinted) > self._chains_max:
            self._hinted.popitem(last=False)

    def paused(self, chain: Chain, state: AgentState, now_ns: int) -> None:
        """Note that a turn ended after `chain`, and why. Nothing follows from it."""

    def fetched(self, chain: Chain, now_ns: int) -> None:
        """Note that `chain` is being fetched: nothing needs to be expected of it any more."""
        if self._hinted and chain:
            self._hinted.pop(chain[-1], None)

    def due(self, now_ns: int) -> list[Chain]:
        """Return the chains to prefetch now, most urgent first, each once."""
        due = list(self._hinted.values())
        self._hinted.clear()
        return due

    def next_ns(self) -> int | None:
        """Return when `due` is next worth asking, if only time goes by; None is never."""
        return None


_FIRST_GAP_NS: Final = 2_000_000_000
_LEARNED_RATIO: Final = 0.1
_DUE_MAX: Final = 8


class NextTurn(OnHint):
    """Prefetch the chain of a live conversation when its next turn is near, and what is hinted.

    How long agents pause is learned for each state, as a moving average; a chain is due when
    half of that has passed, once. What ended is expected no more.

    Units: O(log n) a pause, and O(1) a block of a fetched chain; at most `paused_max`
    conversations are expected, beyond that the one that paused first is not.

    Source: the advisory requests of SYMPHONY (NSDI 2026); gaps after tools and after people
    differ a hundredfold (TraceLab).
    """

    def __init__(self, paused_max: int = 4096) -> None:
        super().__init__()
        self._paused_max = paused_max
        self._paused: OrderedDict[BlockKey, tuple[AgentState, int, Chain]] = OrderedDict()
        """By the last key of their chains, the first to pause first."""
        self._near: list[tuple[int, BlockKey, int]] = []
        """When each is due, with the time of that pause: another is no longer meant."""
        self._gaps_ns: dict[AgentState, float] = {}

    def paused(self, chain: Chain, state: AgentState, now_ns: int) -> None:
        """Expect the conversation back, unless it ended."""
        if not chain:
            return
        self._paused.pop(chain[-1], None)
        if state == "session_ended":
            return
        self._paused[chain[-1]] = (state, now_ns, chain)
        gap_ns = self._gaps_ns.get(state, _FIRST_GAP_NS)
        heappush(self._near, (now_ns + int(gap_ns / 2), chain[-1], now_ns))
        if len(self._paused) > self._paused_max:
            self._paused.popitem(last=False)
        if len(self._near) > 2 * self._paused_max:
            self._near = sorted(each for each in self._near if self._is_meant(each))

    def fetched(self, chain: Chain, now_ns: int) -> None:
        """Learn how long the conversation that `chain` continues has paused."""
        super().fetched(chain, now_ns)
        if not self._paused:
            return
        last = next((key for key in reversed(chain) if key in self._paused), None)
        if last is not None:
            state, since_ns, _ = self._paused.pop(last)
            known_ns = self._gaps_ns.get(state, _FIRST_GAP_NS)
            self._gaps_ns[state] = known_ns + _LEARNED_RATIO * (now_ns - since_ns - known_ns)

    def due(self, now_ns: int) -> list[Chain]:
        """Return what was hinted, and a few of what will be asked for soon."""
        due = super().due(now_ns)
        while len(due) < _DUE_MAX and self._near and self._near[0][0] <= now_ns:
            near = heappop(self._near)
            if self._is_meant(near):
                due.append(self._paused[near[1]][2])
        return due

    def next_ns(self) -> int | None:
        """Return when the next chain is due."""
        while self._near and not self._is_meant(self._near[0]):
            heappop(self._near)
        return self._near[0][0] if self._near else None

    def _is_meant(self, near: tuple[int, BlockKey, int]) -> bool:
        _, last, since_ns = near
        return last in self._paused and self._paused[last][1] == since_ns


class QueueLookAhead(OnHint):
    """Take hints for the engine's queue, and prefetch what its first requests will ask for.

    So a long queue does not turn the entry tier over before its first requests are served.
    What was prefetched and overtaken by a later request is not waited for.

    Units: O(`depth`); `depth` requests are looked at, and each is due once.

    Source: the look-ahead over the scheduler's queue of CachedAttention (ATC 2024) and PCR
    (arXiv 2603.23049).
    """

    def __init__(self, depth: int = 4, chains_max: int = 256) -> None:
        super().__init__(chains_max)
        self._depth = depth
        self._done: OrderedDict[BlockKey, None] = OrderedDict()
        """Prefetched, not yet fetched, in the order of the queue."""

    def fetched(self, chain: Chain, now_ns: int) -> None:
        """Take the request, and what it overtook, off the queue."""
        if not chain:
            return
        if self._hinted.pop(chain[-1], None) is not None:
            self._done.clear()
        elif chain[-1] in self._done:
            while self._done.popitem(last=False)[0] != chain[-1]:
                pass

    def due(self, now_ns: int) -> list[Chain]:
        """Return the first in the queue that were not due before."""
        free = self._depth - len(self._done)
        first = list(islice(self._hinted, max(0, free)))
        self._done.update(dict.fromkeys(first))
        return [self._hinted.pop(key) for key in first]
