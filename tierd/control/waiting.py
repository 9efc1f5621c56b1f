"""Requests that are not answered yet: each is asked again when what it waits for has changed."""

from collections import OrderedDict
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from tierd.control.events import Fetch, Reserve
from tierd.core.keys import BlockKey


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    event: Fetch | Reserve
    number: int


class Waiting:
    """Fetches that wait for a key that another is writing, and reservations that wait for room.

    A request is in here at most once, and leaves before it is asked again.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._by_key: dict[BlockKey, list[_Waiting]] = {}
        self._for_room: dict[int, OrderedDict[int, _Waiting]] = {}
        self._keys: dict[int, BlockKey] = {}
        self._deadlines: list[tuple[int, int, _Waiting]] = []

    def __len__(self) -> int:
        return len(self._keys) + sum(map(len, self._for_room.values()))

    def for_key(self, key: BlockKey, event: Fetch) -> None:
        """Park a fetch until `key` is sealed or given up."""
        waiting = self._add(event)
        self._by_key.setdefault(key, []).append(waiting)
        self._keys[waiting.number] = key

    def for_room(self, event: Reserve) -> None:
        """Park a reservation until slots may have come free, behind its namespace's others."""
        waiting = self._add(event)
        self._for_room.setdefault(event.namespace, OrderedDict())[waiting.number] = waiting

    def pop_key(self, key: BlockKey) -> list[Fetch | Reserve]:
        """Return what waits for `key`, which it does no longer."""
        popped = self._by_key.pop(key, [])
        for waiting in popped:
            del self._keys[waiting.number]
        return [waiting.event for waiting in popped]

    def namespaces_for_room(self) -> list[int]:
        """Return the namespaces whose reservations wait for room."""
        return list(self._for_room)

    def pop_first_for_room(self, namespace: int) -> Fetch | Reserve | None:
        """Return the namespace's reservation that has waited longest; None if there is none."""
        if not (line := self._for_room.get(namespace)):
            return None
        first = line.popitem(last=False)[1].event
        if not line:
            del self._for_room[namespace]
        return first

    def is_back_first(self, event: Fetch | Reserve) -> bool:
        """Say whether `event`, just asked again, waits again; if so it keeps its first place."""
        if not (line := self._for_room.get(event.namespace)):
            return False
        number = next(reversed(line))
        if line[number].event is not event:
            return False
        line.move_to_end(number, last=False)
        return True

    def pop_over(self, now_ns: int) -> list[Fetch | Reserve]:
        """Return what has waited for as long as it wanted to."""
        over = []
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            waiting = heappop(self._deadlines)[2]
            if self._remove(waiting):
                over.append(waiting.event)
        return over

    def forget(self, session: int) -> None:
        """Drop the requests of a session that is no more."""
        for _, _, waiting in self._deadlines:
            if waiting.event.session == session:
                self._remove(waiting)

    def next_deadline_ns(self) -> int | None:
        """Return when `pop_over` has something next."""
        while self._deadlines and not self._is_in(self._deadlines[0][2]):
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _add(self, event: Fetch | Reserve) -> _Waiting:
        waiting = _Waiting(event, next(self._numbers))
        heappush(self._deadlines, (event.wait_until_ns, waiting.number, waiting))
        return waiting

    def _is_in(self, waiting: _Waiting) -> bool:
        if waiting.number in self._keys:
            return True
        return waiting.number in self._for_room.get(waiting.event.namespace, ())

    def _remove(self, waiting: _Waiting) -> bool:
        line = self._for_room.get(waiting.event.namespace, OrderedDict())
        if line.pop(waiting.number, None) is not None:
            if not line:
                del self._for_room[waiting.event.namespace]
            return True
        key = self._keys.pop(waiting.number, None)
        if key is None:
            return False
        others = self._by_key[key]
        others.remove(waiting)
        if not others:
            del self._by_key[key]
        return True
