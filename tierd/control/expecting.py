"""What will be asked for soon, and is brought to the entry tier before it is.

Clients tell what (`Prefetch`), or when (`EndTurn` with the time that it is expected to take); of
pauses of which they do not say how long they are the prefetch policies may make something.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from sortedcontainers import SortedDict  # type: ignore[import-untyped]

from tierd.control import events as ev
from tierd.control.catalog import Block
from tierd.control.config import StoreConfig
from tierd.control.moves import Moves
from tierd.control.planner import best_tiers
from tierd.control.policies import Prefetch
from tierd.control.room import Room
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState
from tierd.core.units import NS_PER_S

_LEAD_NS: Final = 1 * NS_PER_S
"""How long before a conversation is expected to go on its blocks are brought."""

_TOOL_NS_MAX: Final = 60 * NS_PER_S
"""A tool that takes longer lets its agent wait as a person would; 97 of 100 are back by then."""

ReadablePrefix = Callable[[int, Sequence[BlockKey]], list[Block]]


class Expecting:
    """Takes the hints of clients, and brings what follows from them.

    `readable_prefix(namespace, keys)` returns what can be read of a chain. `returns` are the
    conversations of which a client said when they go on.
    """

    def __init__(
        self, config: StoreConfig, room: Room, moves: Moves, readable_prefix: ReadablePrefix
    ) -> None:
        self._config = config
        self._room = room
        self._moves = moves
        self._readable_prefix = readable_prefix
        self._policies: list[Prefetch] = []
        self.returns = Returns(config.limits.expected_blocks_max)

    def add_namespace(self) -> None:
        """Add the policy of one more namespace, numbered as in the catalog."""
        self._policies.append(self._config.policies.prefetch())

    def prefetch(self, event: ev.Prefetch, now_ns: int) -> None:
        """Bring a chain of which a client says that it will be fetched soon."""
        self._policies[event.namespace].hinted(event.keys)
        self.bring_due(event.namespace, now_ns)

    def end_turn(self, event: ev.EndTurn, now_ns: int) -> None:
        """Keep a chain that pauses as warm as its pause is short, and expect it back."""
        held = self._readable_prefix(event.namespace, event.keys)
        self._room.touch(event.namespace, held)
        self._room.note(event.namespace, held, event.classes, _state_for(event))
        self._moves.hurry(held, self._config.entry)
        self.returns.cancel(event.keys)
        if event.expected_ns:
            self.returns.add(event, now_ns + max(0, event.expected_ns - _LEAD_NS))
        else:
            self._policies[event.namespace].paused(event.keys, event.state, now_ns)

    def end_session(self, event: ev.EndSession, now_ns: int) -> None:
        """Let go of a chain, but for what others share of it, and expect it no more."""
        own = slice(event.shared, None)
        held = self._readable_prefix(event.namespace, event.keys)[own]
        self._room.note(event.namespace, held, (), "session_ended")
        self.returns.cancel(event.keys[own])
        self._policies[event.namespace].paused(event.keys, "session_ended", now_ns)
        for policy in self._room.policies[event.namespace]:
            policy.cool([block.key for block in held])

    def fetched(self, event: ev.Fetch, now_ns: int) -> None:
        """Note that a chain, or keys apart, are being fetched: what they continue is back."""
        policy, any_known = self._policies[event.namespace], len(self.returns) > 0
        for chain in ([key] for key in event.keys) if event.apart else (event.keys,):
            if any_known:
                self.returns.cancel(chain)
            policy.fetched(chain, now_ns)

    def tick(self, now_ns: int) -> None:
        """Bring what is due now."""
        for event in self.returns.pop_due(now_ns):
            self.prefetch(ev.Prefetch(event.namespace, event.keys), now_ns)
            # It is soon back, however long it was away: from now on it waits as others do.
            held = self._readable_prefix(event.namespace, event.keys)
            self._room.note(event.namespace, held, event.classes, event.state)
        for namespace in range(len(self._policies)):
            self.bring_due(namespace, now_ns)

    def next_ns(self) -> int | None:
        """Return when `tick` next has something to do, if only time goes by; None is never."""
        times = (self.returns.next_ns(), *(policy.next_ns() for policy in self._policies))
        return min((time for time in times if time is not None), default=None)

    def bring_due(self, namespace: int, now_ns: int) -> None:
        """Bring what the policy of a namespace wants to be there now."""
        for keys in self._policies[namespace].due(now_ns):
            self._bring(namespace, keys)

    def _bring(self, namespace: int, keys: Sequence[BlockKey]) -> None:
        """Have the held prefix of `keys` come to the entry tier, as far as there is room."""
        held = self._readable_prefix(namespace, keys)
        entry = self._config.entry
        found = zip(held, best_tiers(held, self._moves.online), strict=True)
        cold = [(b, tier) for b, tier in found if tier > entry and b.key not in self._moves.by_key]
        slots = self._room.take(namespace, entry, len(cold)) if cold else []
        for (block, tier), slot in zip(cold, slots, strict=False):
            self._moves.start(block, tier, entry, slot, "prefetch")
        self._room.touch(namespace, held)


def _state_for(event: ev.EndTurn) -> AgentState:
    """Return what policies are to take a pause for: one for a long tool is as one for a person."""
    return event.state if event.expected_ns < _TOOL_NS_MAX else "turn_ended"


class Returns:
    """Conversations of which it is known when they go on, each by the last key of its chain.

    Of chains of more than `blocks_max` blocks together, those that are due last are not kept.

    Units: O(log n), and O(1) a key of a chain that is fetched.
    """

    def __init__(self, blocks_max: int) -> None:
        self._blocks_max = blocks_max
        self._numbers = count()
        self._times: dict[BlockKey, tuple[int, int]] = {}
        self._in_time = SortedDict()
        """The pauses, by when they are due; of equals the first that was told."""
        self.blocks = 0

    def __len__(self) -> int:
        return len(self._times)

    def add(self, event: ev.EndTurn, due_ns: int) -> None:
        """Keep a pause until `due_ns`, after a chain of which none is kept any more."""
        if not event.keys:
            return
        assert event.keys[-1] not in self._times, event.keys[-1]
        time = (due_ns, next(self._numbers))
        self._times[event.keys[-1]] = time
        self._in_time[time] = event
        self.blocks += len(event.keys)
        while self.blocks > self._blocks_max:
            self._remove(self._in_time.peekitem(-1)[1].keys[-1])

    def cancel(self, keys: Sequence[BlockKey]) -> None:
        """Drop the longest chain that ends with one of `keys`: its conversation went on, or ended.

        Shorter ones may be of others, that began alike.
        """
        if not self._times.keys().isdisjoint(keys):
            self._remove(next(key for key in reversed(keys) if key in self._times))

    def forget(self, session: int) -> None:
        """Drop what a session told that is no more."""
        for event in [each for each in self._in_time.values() if each.session == session]:
            self._remove(event.keys[-1])

    def sessions(self) -> set[int]:
        """Return whose clients told what is kept."""
        return {event.session for event in self._in_time.values()}

    def pop_due(self, now_ns: int) -> list[ev.EndTurn]:
        """Return the pauses that are due, the first first; they are no longer kept."""
        due: list[ev.EndTurn] = []
        while self._in_time and self._in_time.peekitem(0)[0][0] <= now_ns:
            due.append(self._in_time.peekitem(0)[1])
            self._remove(due[-1].keys[-1])
        return due

    def next_ns(self) -> int | None:
        """Return when the first of them is due."""
        return self._in_time.peekitem(0)[0][0] if self._in_time else None

    def _remove(self, last: BlockKey) -> None:
        time = self._times.pop(last, None)
        if time is not None:
            self.blocks -= len(self._in_time.pop(time).keys)
