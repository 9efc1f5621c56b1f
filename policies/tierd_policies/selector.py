"""Eviction that tries several policies on a sample of the keys, and follows the best."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from xxhash import xxh3_64_intdigest

from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.gdsf import Gdsf
from tierd_policies.protocols import Eviction
from tierd_policies.s3_fifo import S3Fifo

_HASH_MAX: Final = 1 << 64
_SHADOW_BLOCKS_MAX: Final = 8192

_MEMORY_TURNOVERS: Final = 8
"""References, in turnovers of a shadow, after which what was missed counts half."""

_LEAD_MIN: Final = 0.008
"""Share of the references that a policy must miss less than the floor to be followed."""

_WARM_TURNOVERS: Final = 2
"""Turnovers of a shadow before any but the floor is followed."""

_SETBACK: Final = 2
"""All references so far times this is when another is followed again after a setback."""

_LOSS_MAX: Final = 0.0002
"""Share of all references so far that following others may have lost against the floor."""

_LOSS_BLOCKS: Final = 3
"""Losses beyond that share that are put down to chance."""


class Selector:
    """Keep the order of several policies, and propose by the one whose shadow misses least.

    The first is the floor. Each has a shadow: a cache without blocks that holds a sample of the
    keys, under that policy alone. Another than the floor is followed while its shadow missed
    less of late by a clear lead. What following others has cost or saved so far is known from
    the floor's shadow: a loss beyond a small share of all references is a setback, and the
    floor is followed for a while. Keys are sampled by their hash, one by one, so that chains
    stay chains with gaps; the sample is thinned so that a shadow has at most
    `shadow_blocks_max` blocks.

    Units: the sum of its policies, and 3 MiB or so for each shadow. A touch hashes each key.

    Source: SHARDS (Waldspurger et al., FAST 2015) for the sampling; the guard is the
    robustness of learning-augmented LRU (arXiv 2509.20979).
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], Eviction]] = (ChainLRU, Gdsf, S3Fifo),
        shadow_blocks_max: int = _SHADOW_BLOCKS_MAX,
    ) -> None:
        self._shadow_blocks_max = shadow_blocks_max
        self._policies = [make() for make in makers]
        self._shadows = [_Shadow(make()) for make in makers]
        self._followed = 0
        self._tracked: set[BlockKey] = set()
        self._capacity = 0
        self._is_evicting = False
        self._hash_max = _HASH_MAX
        self._recent = 0.0
        self._pending = 0
        self._asked = 0
        self._saved = self._saved_most = 0
        self._trusts_from = 0
        self._fresh = 0

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        self._tell("touch", chain)
        self._sample("touch", chain)
        self._tracked.update(chain)

    def extend(self, chain: Sequence[BlockKey]) -> None:
        """Track the new keys at the end of `chain`; for the others this is no further use."""
        self._tell("extend", chain)
        self._sample("extend", chain)
        self._tracked.update(chain)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Propose the tracked keys of `chain`, root first, next, save what other chains need."""
        self._tell("cool", chain)
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
                _call(shadow.policy, "note", keys, kinds, state)

    def evicted(self, key: BlockKey) -> None:
        """Note that a proposed key was taken, and stop tracking it."""
        if not self._is_evicting:
            # The first since something came: now all places are taken.
            self._capacity, self._is_evicting = len(self._tracked), True
        self._tell("evicted", key)
        self._tracked.discard(key)

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        self._tell("forget", key)
        self._tracked.discard(key)

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys as the followed policy would. Changes nothing."""
        return self._policies[self._followed].victims()

    # ---- shadows

    def _is_sampled(self, key: BlockKey) -> bool:
        return xxh3_64_intdigest(key) < self._hash_max

    def _sample(self, verb: str, chain: Sequence[BlockKey]) -> None:
        self._is_evicting = False
        sampled = [key for key in chain if self._is_sampled(key)]
        if not sampled or not self._capacity:
            # Nothing was evicted yet, so all policies are alike; the shadows fill up.
            blocks_max = 1 << 62
        else:
            blocks_max = max(1, self._capacity * self._hash_max // _HASH_MAX)
        self._fresh += sum(key not in self._tracked for key in sampled)
        for shadow in self._shadows:
            shadow.ask(verb, sampled, blocks_max)
        self._thin()
        if self._capacity:
            self._recent += len(sampled)
            self._pending += len(sampled)
            if self._pending * 16 >= blocks_max:
                self._choose(blocks_max)

    def _thin(self) -> None:
        while max(len(shadow.held) for shadow in self._shadows) > self._shadow_blocks_max:
            self._hash_max //= 2
            for shadow in self._shadows:
                shadow.drop(self._is_sampled)

    def _choose(self, blocks_max: int) -> None:
        """Account for what the last references missed, and look whom to follow."""
        floor = self._shadows[0]
        self._asked += self._pending
        self._saved += floor.fresh - self._fresh
        self._fresh = 0
        kept = 0.5 ** (self._pending / (_MEMORY_TURNOVERS * blocks_max))
        self._recent *= kept
        for shadow in self._shadows:
            shadow.misses = (shadow.misses + shadow.fresh) * kept
            shadow.fresh = 0
        self._pending = 0
        best = min(range(len(self._shadows)), key=lambda at: self._shadows[at].misses)
        lead = floor.misses - self._shadows[best].misses
        self._saved_most = max(self._saved_most, self._saved)
        self._trusts_from = max(self._trusts_from, _WARM_TURNOVERS * blocks_max)
        budget = _LOSS_BLOCKS + _LOSS_MAX * self._asked
        if self._saved < self._saved_most - budget:
            self._followed, self._saved_most = 0, self._saved
            self._trusts_from = _SETBACK * self._asked
        elif self._saved < -budget or lead < _LEAD_MIN * self._recent / 2:
            self._followed = 0
        elif lead >= _LEAD_MIN * self._recent and self._asked > self._trusts_from:
            self._followed = best

    def _tell(self, verb: str, about: Sequence[BlockKey] | BlockKey) -> None:
        for policy in self._policies:
            _call(policy, verb, about)


class _Shadow:
    """A cache of sampled keys without blocks, as it would be under one policy alone."""

    def __init__(self, policy: Eviction) -> None:
        self.policy = policy
        self.held: set[BlockKey] = set()
        self.fresh = 0
        self.misses = 0.0

    def ask(self, verb: str, chain: Sequence[BlockKey], blocks_max: int) -> None:
        """Count what of `chain` is missed, and hold it from now on."""
        hit = next((at for at, key in enumerate(chain) if key not in self.held), len(chain))
        self.fresh += len(chain) - hit
        excess = len(self.held) + len(chain) - hit - blocks_max
        if excess > 0:
            spared = set(chain)
            victims = (key for key in self.policy.victims() if key not in spared)
            for key in list(islice(victims, excess)):
                _call(self.policy, "evicted", key)
                self.held.discard(key)
        _call(self.policy, verb, chain)
        self.held.update(chain)

    def drop(self, is_kept: Callable[[BlockKey], bool]) -> None:
        """Hold fewer keys: only those that are still sampled."""
        for key in [key for key in self.held if not is_kept(key)]:
            self.policy.forget(key)
            self.held.discard(key)


_PLAINER: Final = {"extend": "touch", "evicted": "forget"}
"""What a policy is told instead that does not tell the two apart."""


def _call(policy: Eviction, verb: str, *about: object) -> None:
    method = getattr(policy, verb, None) or getattr(policy, _PLAINER[verb])
    method(*about)
