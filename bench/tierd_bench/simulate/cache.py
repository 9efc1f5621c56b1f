"""One cache of blocks under one policy: which references of a trace it hits.

The policy objects are those that the daemon runs, told what the daemon tells them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd.control.policies import Listener
from tierd.core.keys import KEY_BYTES, BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_bench.simulate.hints import STATES
from tierd_bench.simulate.references import References
from tierd_bench.traces.requests import prefix_length
from tierd_policies.protocols import Eviction

_TELL_EVERY: Final = 256
_UNKNOWN: Final[BlockClass] = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a cache did with a trace.

    Shapes: hits [requests], the leading blocks that each request found.
    Units: cpu_s is the processor time of the loop, without reading the trace.
    """

    hits: NDArray[np.int32]
    evictions: int
    cpu_s: float


def run_policy(
    references: References,
    make: Callable[[], Eviction],
    capacity: int,
    tell: Callable[[int], None],
) -> Outcome:
    """Return what a cache of `capacity` blocks hits; `tell` hears how many references are done."""
    keys = [BlockKey(n.to_bytes(KEY_BYTES, "little")) for n in range(references.unique_blocks)]
    cache = _Cache(make(), capacity, keys, references.parents.tolist())
    starts = references.starts.tolist()
    states = [STATES[state] for state in references.states.tolist()]
    hits = np.zeros(references.requests, np.int32)
    begun_ns = time.process_time_ns()
    for request in range(references.requests):
        numbers = references.blocks[starts[request] : starts[request + 1]].tolist()
        if numbers:
            hits[request] = cache.ask(numbers, states[request])
        if request % _TELL_EVERY == 0:
            tell(starts[request])
    cpu_s = (time.process_time_ns() - begun_ns) / 1e9
    return Outcome(hits, cache.evictions, cpu_s)


class _Cache:
    """Holds up to `capacity` blocks, each by its number; the policy knows them by key."""

    def __init__(
        self, policy: Eviction, capacity: int, keys: list[BlockKey], parents: list[int]
    ) -> None:
        self.evictions = 0
        self._policy = policy
        self._capacity = capacity
        self._keys = keys
        self._parents = parents
        self._held: set[int] = set()
        self._children = [0] * (len(keys) + 1)
        """Of each block those that are held; the last place is for the roots' parent, -1."""
        self._listener = Listener(policy)
        self._tells_growth_apart = hasattr(policy, "extend")

    def ask(self, numbers: Sequence[int], state: AgentState) -> int:
        """Return how many leading blocks of a chain are held; then hold it, as far as it fits."""
        hit = prefix_length(self._held, numbers)
        chain = [self._keys[number] for number in numbers]
        kept = hit
        if hit == len(chain):
            self._policy.touch(chain)
        else:
            self._listener.missed(chain[hit:])
            kept = self._hold(chain, numbers, hit)
        if state != STATES[0]:
            self._listener.note(chain[:kept], [_UNKNOWN] * kept, state)
        return hit

    def _hold(self, chain: Sequence[BlockKey], numbers: Sequence[int], hit: int) -> int:
        """Make room for what was missed, and insert it; return how much of the chain is held."""
        kept = min(len(chain), self._capacity)
        short = len(self._held) + kept - hit - self._capacity
        if short <= 0:
            self._policy.touch(chain[:kept])
        else:
            # For a policy that cannot tell them apart, use and growth are one touch.
            if self._tells_growth_apart and hit:
                self._policy.touch(chain[:hit])
            kept -= short - self._make_room(short, set(numbers[:hit]))
            self._listener.extend(chain[:kept])
        self._insert(numbers[hit:kept])
        return kept

    def _insert(self, numbers: Sequence[int]) -> None:
        self._held.update(numbers)
        for number in numbers:
            self._children[self._parents[number]] += 1

    def _make_room(self, wanted: int, pinned: set[int]) -> int:
        """Evict so many blocks, fewer if the policy gives up no more; return how many."""
        room = 0
        while room < wanted:
            # A policy is not changed while its victims are read: choose first, then evict.
            chosen = self._choose(wanted - room, pinned)
            if not chosen:
                break
            for number in chosen:
                self._listener.evicted(self._keys[number])
                self._policy.forget(self._keys[number])
            self._held.difference_update(chosen)
            room += len(chosen)
        self.evictions += room
        return room

    def _choose(self, wanted: int, pinned: set[int]) -> list[int]:
        """Return the first victims that are neither pinned nor continued by a block that stays."""
        chosen: list[int] = []
        for key in self._policy.victims():
            number = int.from_bytes(key, "little")
            if self._children[number] or number in pinned:
                continue
            self._children[self._parents[number]] -= 1
            chosen.append(number)
            if len(chosen) == wanted:
                break
        return chosen
