"""What all policies for prefix chains share: which blocks are leaves, and that they go first.

A lookup walks a chain from its root, so a block whose parent is gone can no longer be found. A
policy derived from `LeafFirst` therefore orders leaves only, the blocks that no tracked block
continues. When the last child of a block goes, the block is a leaf again, and the policy says
where among the leaves it stands. In a flat cache, where no key continues another, every key is
a leaf and the policy is the classic one, hit for hit.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tierd.core.keys import BlockKey

_CHAIN_BITS: Final = 24
"""Of a stamp: the place within one touch. The bits above count the touches."""


class LeafFirst:
    """Keeps the tree of tracked keys, and proposes children before parents whatever the order.

    Who derives from it keeps an order of leaves by `_place` and `_leave` and tells it by
    `_order`; what else it wants to hear of it overrides. The tree is read off the chains: each
    key continues the one before it. A parent must be in every chain that names one of its
    children, unless it is not tracked.

    A stamp tells when a key was used last; parents have later ones than their children.

    Units: some 300 bytes a key. A touch costs O(1) for each key of the chain, besides what the
    policy adds.
    """

    def __init__(self) -> None:
        self._parents: dict[BlockKey, BlockKey | None] = {}
        self._children: dict[BlockKey, int] = {}
        self._stamps: dict[BlockKey, int] = {}
        self._touches = 0
        self._cools = 0

    def touch(self, chain: Sequence[BlockKey]) -> None:
        """Mark `chain`, root first and whole, as used now. New keys start being tracked."""
        new = self._connect(chain)
        for key in chain:
            if key in new:
                self._insert(key)
            else:
                self._use(key)

    def extend(self, chain: Sequence[BlockKey]) -> None:
        """Track the new keys at the end of `chain`; for the others this is no further use."""
        new = self._connect(chain)
        for key in chain:
            if key in new:
                self._insert(key)

    def cool(self, chain: Sequence[BlockKey]) -> None:
        """Propose the tracked keys of `chain`, root first, next, save what other chains need."""
        self._cools += 1
        stamp = (-self._cools << _CHAIN_BITS) + len(chain)
        for place, key in enumerate(chain):
            if key in self._parents:
                self._stamps[key] = stamp - place
        for key in chain:
            if key in self._parents:
                self._cool(key)

    def evicted(self, key: BlockKey) -> None:
        """Note that a proposed key was taken, and stop tracking it."""
        if key in self._parents:
            self._evict(key)
            self.forget(key)

    def forget(self, key: BlockKey) -> None:
        """Stop tracking `key`. Unknown keys are fine: an eviction and a drop may meet."""
        if key not in self._parents:
            return
        parent = self._parents.pop(key)
        if parent is not None and self._release(parent):
            self._uncover(parent, key)
        self._remove(key)
        del self._stamps[key]

    def victims(self) -> Iterator[BlockKey]:
        """Yield tracked keys, next to evict first, children before parents. Changes nothing."""
        left: dict[BlockKey, int] = {}
        later: list[BlockKey] = []
        yield from self._with_parents(self._order(), left, later)
        while later:
            bared, later = later, []
            yield from self._with_parents(bared, left, later)

    # ---- what a policy says

    def _order(self) -> Iterator[BlockKey]:
        """Yield all leaves, next to evict first. Changes nothing."""
        raise NotImplementedError

    def _place(self, key: BlockKey) -> None:
        """Put `key`, a leaf, where it belongs now, whether or not it was in the order."""
        raise NotImplementedError

    def _leave(self, key: BlockKey) -> None:
        """Take `key` out of the order of leaves, if it is in."""
        raise NotImplementedError

    # ---- what a policy may say and hear besides

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        """Say whether `parent`, bared by the eviction of `child`, would be the next to go."""
        return not self._was_used_without(parent, child)

    def _insert(self, key: BlockKey) -> None:
        """Start tracking `key`, as used now. It may be a leaf. Its parent was told of before."""
        if self._is_leaf(key):
            self._place(key)

    def _use(self, key: BlockKey) -> None:
        """Note a use of `key`, which may be a leaf."""
        if self._is_leaf(key):
            self._place(key)

    def _cover(self, key: BlockKey) -> None:
        """Note that `key`, a leaf so far, has a child now."""
        self._leave(key)

    def _uncover(self, key: BlockKey, child: BlockKey) -> None:
        """Note that `key` is a leaf, since `child` goes. `_remove(child)` comes after this."""
        self._place(key)

    def _cool(self, key: BlockKey) -> None:
        """Note that `key` is not expected back. It may be a leaf."""
        if self._is_leaf(key):
            self._place(key)

    def _evict(self, key: BlockKey) -> None:
        """Note that `key` is about to be forgotten because it was a victim."""

    def _remove(self, key: BlockKey) -> None:
        """Forget all about `key`, which may be a leaf."""
        self._leave(key)

    # ---- what a policy may ask

    def _is_leaf(self, key: BlockKey) -> bool:
        return key not in self._children

    def _was_used_without(self, parent: BlockKey, child: BlockKey) -> bool:
        """Say whether `parent` was used after the last use of `child`."""
        return self._touch_of(parent) > self._touch_of(child)

    def _touch_of(self, key: BlockKey) -> int:
        """Return which touch used `key` last; of a cooled one, a number below 0."""
        return self._stamps[key] >> _CHAIN_BITS

    # ---- the tree

    def _connect(self, chain: Sequence[BlockKey]) -> set[BlockKey]:
        """Bring tree and stamps up to date with `chain`; return its keys that were not tracked."""
        self._touches += 1
        stamp = (self._touches << _CHAIN_BITS) + len(chain)
        parents = self._parents
        new = set()
        previous: BlockKey | None = None
        for key in chain:
            if key not in parents:
                new.add(key)
                parents[key] = previous
                self._adopt(previous, new)
            elif parents[key] != previous:
                former = parents[key]
                parents[key] = previous
                self._adopt(previous, new)
                if former is not None and self._release(former):
                    self._uncover(former, key)
            self._stamps[key] = stamp
            stamp -= 1
            previous = key
        return new

    def _adopt(self, parent: BlockKey | None, new: set[BlockKey]) -> None:
        """Count one child more of `parent`. What is new was never a leaf before its children."""
        if parent is None:
            return
        children = self._children.get(parent, 0)
        self._children[parent] = children + 1
        if not children and parent not in new:
            self._cover(parent)

    def _release(self, parent: BlockKey) -> bool:
        """Count one child less; say whether `parent` is a tracked leaf now."""
        children = self._children[parent] - 1
        if children:
            self._children[parent] = children
            return False
        del self._children[parent]
        return parent in self._parents

    def _with_parents(
        self, leaves: Iterable[BlockKey], left: dict[BlockKey, int], later: list[BlockKey]
    ) -> Iterator[BlockKey]:
        """Yield each leaf and the parents that go with it; put the other bared ones in `later`."""
        for leaf in leaves:
            yield leaf
            child, parent = leaf, self._parents[leaf]
            while parent is not None and parent in self._parents:
                left[parent] = left.get(parent, self._children[parent]) - 1
                if left[parent]:
                    break
                if not self._goes_with(parent, child):
                    later.append(parent)
                    break
                yield parent
                child, parent = parent, self._parents[parent]
