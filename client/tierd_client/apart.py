"""Keys of blocks that do not continue one another."""

from collections.abc import Iterable, Sequence
from typing import overload

from tierd.core.keys import BlockKey


class Apart(Sequence[BlockKey]):
    """Keys of which each is a chain of its own; goes where a namespace takes a chain.

    For an engine that names its blocks one by one, and cannot say which come before them: its
    name must then stand for all of them. One message asks for many such blocks:

        kv.fetch(Apart(adopt_keys(layout.root, hashes)), into)

    What is said of a prefix is then said of the leading keys that are held: a fetch ends before
    the first that is not, or that comes for the second time. A publish offers them all. Slices
    are apart, too.

    The daemon evicts each by itself; of those used by one call the last ones first. A block is
    found as it was published: apart, or behind the block before it.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[BlockKey]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> BlockKey: ...

    @overload
    def __getitem__(self, index: slice) -> "Apart": ...

    def __getitem__(self, index: int | slice) -> "BlockKey | Apart":
        return Apart(self._keys[index]) if isinstance(index, slice) else self._keys[index]
