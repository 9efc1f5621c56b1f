"""A cache that holds keys only: what the tests drive policies with, as control would."""

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate

from tierd.core.keys import BlockKey
from tierd_policies.protocols import Eviction

Make = Callable[[], Eviction]


class Cache:
    """Holds up to `capacity` keys; a chain in flight is not evicted."""

    def __init__(self, policy: Eviction, capacity: int) -> None:
        self.policy = policy
        self.capacity = capacity
        self.held: set[BlockKey] = set()

    def ask(self, chain: Sequence[BlockKey]) -> int:
        """Return how many leading keys hit, and hold as much of the chain as there is room for."""
        hit = next((at for at, key in enumerate(chain) if key not in self.held), len(chain))
        if hit < len(chain) and hasattr(self.policy, "missed"):
            self.policy.missed(chain[hit:])
        while len(self.held) + len(chain) - hit > self.capacity:
            spared = set(chain[:hit])
            victim = next((key for key in self.policy.victims() if key not in spared), None)
            if victim is None:
                break
            getattr(self.policy, "evicted", self.policy.forget)(victim)
            self.held.remove(victim)
        kept = chain[: hit + self.capacity - len(self.held)]
        self.policy.touch(kept)
        self.held.update(kept)
        return hit


def flat_hits(make: Make, trace: Sequence[int], capacity: int) -> list[bool]:
    """Return for each key asked for whether it hit, no key continuing another."""
    cache = Cache(make(), capacity)
    return [cache.ask([BlockKey(key.to_bytes(8, "little"))]) == 1 for key in trace]


def zipf(requests: int, keys: int, seed: int, exponent: float = 0.9) -> list[int]:
    """Return a trace with a few popular keys and many others."""
    source = random.Random(seed)
    sums = list(accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    return [bisect(sums, source.random() * sums[-1]) for _ in range(requests)]


def scanned(requests: int, keys: int, seed: int) -> list[int]:
    """Return such a trace, with scans over keys that come once or twice in between."""
    trace: list[int] = []
    fresh = keys
    for at, key in enumerate(zipf(requests, keys, seed)):
        trace.append(key)
        if at % 1000 == 999:
            trace += range(fresh, fresh + 300)
            fresh += 150
    return trace
