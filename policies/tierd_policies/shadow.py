"""Caches without blocks: what another policy would hold, and what it would have missed."""

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final

from tierd.core.keys import BlockKey
from tierd_policies.protocols import Eviction

Verb = str
"""The name of a method of a policy."""


class Shadow:
    """A cache of keys without blocks, as it would be under one policy alone.

    `fresh` counts misses since the reader last put it back to 0.
    """

    def __init__(self, policy: Eviction) -> None:
        self.policy = policy
        self.held: set[BlockKey] = set()
        self.fresh = 0
        self.misses = 0.0

    def ask(
        self, verb: Verb, chain: Sequence[BlockKey], new: Collection[BlockKey], blocks_max: int
    ) -> Sequence[BlockKey]:
        """Count what of `chain` is missed, and hold it from now on; return what goes for it.

        Where the real cache only had its chain extended, by `new`, the rest was counted before.
        """
        held = self.held
        if held.issuperset(chain):
            hit = len(chain)
        else:
            hit = next(at for at, key in enumerate(chain) if key not in held)
        if verb == "touch":
            self.fresh += len(chain) - hit
        else:
            self.fresh += sum(key in new for key in chain[hit:])
            if hit and chain[hit - 1] in new:
                # The real cache missed it; here it is a use.
                verb = "touch"
        gone = self._make_room(len(held) + len(chain) - hit - blocks_max, chain[:hit])
        call(self.policy, verb, chain)
        held.update(chain[hit:])
        return gone

    def forget(self, key: BlockKey) -> None:
        """Hold `key` no more."""
        self.policy.forget(key)
        self.held.discard(key)

    def drop(self, is_kept: Callable[[BlockKey], bool]) -> None:
        """Hold fewer keys: only those that are still sampled."""
        for key in [key for key in self.held if not is_kept(key)]:
            self.forget(key)

    def _make_room(self, excess: int, hit: Sequence[BlockKey]) -> Sequence[BlockKey]:
        if excess <= 0:
            return ()
        spared = set(hit)
        gone = list(islice((k for k in self.policy.victims() if k not in spared), excess))
        for key in gone:
            call(self.policy, "evicted", key)
        self.held.difference_update(gone)
        return gone


_PLAINER: Final = {"extend": "touch", "evicted": "forget"}
"""What a policy is told instead that does not tell the two apart."""


def call(policy: Eviction, verb: Verb, *about: object) -> None:
    """Tell `policy` what happened, in its own words."""
    method = getattr(policy, verb, None) or getattr(policy, _PLAINER[verb])
    method(*about)
