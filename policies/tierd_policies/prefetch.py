"""Which chains to bring to the entry tier before they are asked for, and when.

A prefetch policy hears what happens and is asked what is due. Times are monotonic nanoseconds.
Whether there is room, and whether demand goes first, is left to control.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState

Chain = Sequence[BlockKey]


class Prefetch(Protocol):
    """What is asked of a prefetch policy."""

    def hinted(self, chain: Chain) -> None:
        """Note that a client says that `chain` will be fetched soon."""
        ...

    def paused(self, session: int, chain: Chain, state: AgentState, now_ns: int) -> None:
        """Note that a session's turn ended after `chain`, and why."""
        ...

    def queued(self, session: int, chain: Chain) -> None:
        """Note that a request for `chain` is last in the engine's queue."""
        ...

    def fetched(self, session: int, now_ns: int) -> None:
        """Note that a session's next fetch has come: what was expected of it is over."""
        ...

    def due(self, now_ns: int) -> list[Chain]:
        """Return the chains to prefetch now, most urgent first, each once."""
        ...

    def next_ns(self) -> int | None:
        """Return when `due` is next worth asking, or None if only after another note."""
        ...


class OnHint:
    """Prefetch what clients ask for, and nothing else.

    Units: O(1); at most `chains_max` wait, beyond that the oldest hint is dropped.

    Source: the prefetch hint of SGLang's RFC 27574.
    """

    def __init__(self, chains_max: int = 256) -> None:
        self._chains_max = chains_max
        self._waiting: list[Chain] = []

    def hinted(self, chain: Chain) -> None:
        """Note that `chain` is wanted."""
        self._waiting = [*self._waiting[-self._chains_max + 1 :], chain]

    def paused(self, session: int, chain: Chain, state: AgentState, now_ns: int) -> None:
        """Nothing follows from a pause."""

    def queued(self, session: int, chain: Chain) -> None:
        """Nothing follows from a queue."""

    def fetched(self, session: int, now_ns: int) -> None:
        """Nothing was expected."""

    def due(self, now_ns: int) -> list[Chain]:
        """Return what was hinted since the last call."""
        due, self._waiting = self._waiting, []
        return due

    def next_ns(self) -> int | None:
        """Return None: hints are due at once."""
        return None


_FIRST_GAP_NS: Final = 2_000_000_000
_LEARNED_RATIO: Final = 0.1


class NextTurn(OnHint):
    """Prefetch the chain of a live session when its next turn is near, and what is hinted.

    How long agents pause is learned for each state, as a moving average; a chain is due when
    half of that has passed, once. Sessions that ended are expected no more.

    Units: O(1), and O(sessions) to find what is due; at most `sessions_max` are expected, beyond
    that the one that paused first is not.

    Source: the advisory requests of SYMPHONY (NSDI 2026); gaps after tools and after people
    differ a hundredfold (TraceLab).
    """

    def __init__(self, sessions_max: int = 4096) -> None:
        super().__init__()
        self._sessions_max = sessions_max
        self._paused: OrderedDict[int, tuple[AgentState, int]] = OrderedDict()
        self._expected: dict[int, tuple[int, Chain]] = {}
        self._gaps_ns: dict[AgentState, float] = {}

    def paused(self, session: int, chain: Chain, state: AgentState, now_ns: int) -> None:
        """Expect the session back, unless it ended."""
        self._forget(session)
        if state == "session_ended":
            return
        self._paused[session] = (state, now_ns)
        gap_ns = self._gaps_ns.get(state, _FIRST_GAP_NS)
        self._expected[session] = (now_ns + int(gap_ns / 2), chain)
        if len(self._paused) > self._sessions_max:
            self._forget(next(iter(self._paused)))

    def fetched(self, session: int, now_ns: int) -> None:
        """Learn how long the session paused."""
        if session in self._paused:
            state, since_ns = self._paused[session]
            known_ns = self._gaps_ns.get(state, _FIRST_GAP_NS)
            self._gaps_ns[state] = known_ns + _LEARNED_RATIO * (now_ns - since_ns - known_ns)
            self._forget(session)

    def due(self, now_ns: int) -> list[Chain]:
        """Return what was hinted, and what sessions will ask for soon."""
        near = sorted((at, session) for session, (at, _) in self._expected.items() if at <= now_ns)
        return [*super().due(now_ns), *(self._expected.pop(session)[1] for _, session in near)]

    def next_ns(self) -> int | None:
        """Return when the next chain is due."""
        return min((at for at, _ in self._expected.values()), default=None)

    def _forget(self, session: int) -> None:
        self._paused.pop(session, None)
        self._expected.pop(session, None)


class QueueLookAhead(OnHint):
    """Prefetch what the first requests in the engine's queue will ask for, and what is hinted.

    Units: O(1); `depth` requests are looked at, and a request is due once.

    Source: the look-ahead over the scheduler's queue of CachedAttention (ATC 2024) and PCR
    (arXiv 2603.23049).
    """

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self._depth = depth
        self._queue: OrderedDict[int, Chain] = OrderedDict()
        self._done: set[int] = set()

    def queued(self, session: int, chain: Chain) -> None:
        """Put the session's request last."""
        self._forget(session)
        self._queue[session] = chain

    def fetched(self, session: int, now_ns: int) -> None:
        """Take the session's request off the queue."""
        self._forget(session)

    def due(self, now_ns: int) -> list[Chain]:
        """Return what was hinted, and the first in the queue that were not due before."""
        first = [each for each in list(self._queue)[: self._depth] if each not in self._done]
        self._done.update(first)
        return [*super().due(now_ns), *(self._queue[session] for session in first)]

    def _forget(self, session: int) -> None:
        self._queue.pop(session, None)
        self._done.discard(session)
