"""Eviction that tries several policies on a sample of the keys, and follows the best."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.gdsf import Gdsf
from tierd_policies.guard import Guard
from tierd_policies.protocols import Eviction
from tierd_policies.session_aware import SessionAware
from tierd_policies.shadow import Shadow, Verb, call

_HASH_MAX: Final = 1 << 64
_SHADOW_BLOCKS_MAX: Final = 2048

_MEMORY_TURNOVERS: Final = 8
"""References, in turnovers of a shadow, after which what was missed counts half."""

_LEAD_MIN: Final = 0.008
"""Share of the references that a policy must miss less than the floor to be followed."""

_WARM_TURNOVERS: Final = 2
"""Turnovers of a shadow before any but the floor is followed."""

_SETBACK: Final = 2
"""All references so far times this is when another is followed again after a setback."""

_LOSS_MAX: Final = 0.0005
"""Share of all references so far that following others may have lost against the floor."""


class Selector:
    """Keep the order of several policies, and propose by the one whose shadow misses least.

    The first is the floor. Each has a shadow: a cache without blocks that holds a sample of the
    keys, under that policy alone. Another than the floor is followed while its shadow missed
    less of late by a clear lead, and only as far as the guard allows: that runs the floor on all
    keys, so what following others has lost is known exactly, and what it may yet lose is
    bounded. Both together stay below half a block in a thousand references. Keys are sampled
    by their hash, one by one, so that chains stay chains with gaps; the sample is thinned so
    that a shadow has at most `shadow_blocks_max` blocks.

    Units: the sum of its policies, the floor twice, and 1 MiB or so for each shadow. A touch
    hashes each key.

    Source: SHARDS (Waldspurger et al., FAST 2015) for the sampling; the guard is in the spirit
    of robust learning-augmented LRU (arXiv 2509.20979).
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], Eviction]] = (ChainLRU, SessionAware, Gdsf),
        shadow_blocks_max: int = _SHADOW_BLOCKS_MAX,
    ) -> None:
        self._shadow_blocks_max = shadow_blocks_max
        self._policies = [make() for make in makers]
        self._shadows = [Shadow(make()) for make in makers]
        self.guard = Guard(makers[0]())
        self.followed = 0
        self._tracked: set[BlockKey] = set()
        self._has_evicted = False
        self._tracked_most = self._tracked_most_before = 0
        self._hash_max = _HASH_MAX
        self._recent = 0.0
        self._pending = 0
        self._asked = 0
        self._lost_least = 0
        self._trusts_from = 0

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        self._note_use("touch", chain)

    def extend(self, chain: Sequence[BlockKey]) -> None:
        """Track the new keys at the end of `chain`; for the others this is no further use."""
        self._note_use("extend", chain)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Propose the tracked keys of `chain`, root first, next, save what other chains need."""
        self._tell("cool", chain)
        self.guard.cool(chain)
        sampled = [key for key in chain if self._is_sampled(key)]
        for shadow in self._shadows:
            shadow.policy.cool(sampled)

    def missed(self, keys: Sequence[BlockKey]) -> None:
        """Note that `keys` were asked for and not there, so that they may come next."""
        for policy in self._policies:
            if hasattr(policy, "missed"):
                policy.missed(keys)

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        """Note what the blocks of `chain`, just touched, are, and what their agent does now."""
        sampled = [at for at, key in enumerate(chain) if self._is_sampled(key)]
        keys = [chain[at] for at in sampled]
        kinds = [classes[at] for at in sampled if at < len(classes)]
        for policy, shadow in zip(self._policies, self._shadows, strict=True):
            if hasattr(policy, "note"):
                policy.note(chain, classes, state)
                call(shadow.policy, "note", keys, kinds, state)

    def evicted(self, key: BlockKey) -> None:
        """Note that a proposed key was taken, and stop tracking it."""
        self._has_evicted = True
        self._tell("evicted", key)
        if key in self._tracked:
            self._tracked.remove(key)
            self.guard.evicted(key)

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        self._tell("forget", key)
        if key in self._tracked:
            self._tracked.remove(key)
            self.guard.forget(key)

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys as the followed policy would. Changes nothing."""
        floor = self._policies[0].victims()
        if not self.followed:
            return floor
        wanted = self._policies[self.followed].victims()
        return _first(self.guard.afford(wanted, self._lost_max()), floor)

    def _lost_max(self) -> float:
        return _LOSS_MAX * self.guard.asked

    def _capacity(self) -> int:
        """Return how many blocks there are places for: a tier that evicts is full."""
        return max(self._tracked_most, self._tracked_most_before)

    def _note_use(self, verb: Verb, chain: Sequence[BlockKey]) -> None:
        new = set(chain) - self._tracked
        self._tell(verb, chain)
        self._tracked.update(new)
        self._tracked_most = max(self._tracked_most, len(self._tracked))
        # While nothing was evicted all policies are alike.
        blocks_max = self._capacity() if self._has_evicted else _HASH_MAX
        self.guard.ask(verb, chain, new, blocks_max)
        sampled = [key for key in chain if self._is_sampled(key)]
        if sampled:
            self._sample(verb, sampled, new, blocks_max)

    # ---- shadows

    def _is_sampled(self, key: BlockKey) -> bool:
        return xxh3_64_intdigest(key) < self._hash_max

    def _sample(
        self,
        verb: Verb,
        sampled: Sequence[BlockKey],
        new: Collection[BlockKey],
        blocks_max: int,
    ) -> None:
        shadow_max = max(1, blocks_max * self._hash_max // _HASH_MAX)
        for shadow in self._shadows:
            shadow.ask(verb, sampled, new, shadow_max)
        self._thin()
        if self._has_evicted:
            self._recent += len(sampled)
            self._pending += len(sampled)
            if self._pending * 16 >= shadow_max:
                self._choose(shadow_max)

    def _thin(self) -> None:
        while max(len(shadow.held) for shadow in self._shadows) > self._shadow_blocks_max:
            self._hash_max //= 2
            for shadow in self._shadows:
                shadow.drop(self._is_sampled)

    def _choose(self, shadow_max: int) -> None:
        """Account for what the last references missed, and look whom to follow."""
        self._tracked_most_before, self._tracked_most = self._tracked_most, len(self._tracked)
        kept = 0.5 ** (self._pending / (_MEMORY_TURNOVERS * shadow_max))
        self._asked += self._pending
        self._pending = 0
        self._recent *= kept
        for shadow in self._shadows:
            shadow.misses = (shadow.misses + shadow.fresh) * kept
            shadow.fresh = 0
        floor, *_ = self._shadows
        best = min(range(len(self._shadows)), key=lambda at: self._shadows[at].misses)
        lead = floor.misses - self._shadows[best].misses
        self._trusts_from = max(self._trusts_from, _WARM_TURNOVERS * shadow_max)
        self._lost_least = min(self._lost_least, self.guard.lost)
        if self.guard.lost > self._lost_least + self._lost_max():
            self.followed, self._lost_least = 0, self.guard.lost
            self._trusts_from = _SETBACK * self._asked
        elif lead < _LEAD_MIN * self._recent / 2:
            self.followed = 0
        elif lead >= _LEAD_MIN * self._recent and self._asked > self._trusts_from:
            self.followed = best

    def _tell(self, verb: Verb, about: Sequence[BlockKey] | BlockKey) -> None:
        for policy in self._policies:
            call(policy, verb, about)


def _first(some: Iterator[BlockKey], others: Iterator[BlockKey]) -> Iterator[BlockKey]:
    """Yield `some`, and then what is not among them of `others`."""
    seen = set()
    for key in some:
        seen.add(key)
        yield key
    yield from (key for key in others if key not in seen)
