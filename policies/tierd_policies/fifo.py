"""First-in-first-out eviction for prefix chains."""

from collections import OrderedDict
from collections.abc import Iterator

from tierd.core.keys import BlockKey
from tierd_policies.leaf_first import LeafFirst


class Fifo(LeafFirst):
    """Propose the leaf that came first; a use changes nothing.

    A chain is as new as its newest leaf. A block whose last child went takes its place, since
    it came earlier still.

    Units: O(1) a key.

    Source: FIFO, the reference of Belady, "A study of replacement algorithms" (1966).
    """

    def __init__(self) -> None:
        super().__init__()
        self._oldest_first: OrderedDict[BlockKey, None] = OrderedDict()

    def _order(self) -> Iterator[BlockKey]:
        return iter(self._oldest_first)

    def _goes_with(self, parent: BlockKey, child: BlockKey) -> bool:
        return True

    def _place(self, key: BlockKey) -> None:
        self._oldest_first[key] = None

    def _leave(self, key: BlockKey) -> None:
        self._oldest_first.pop(key, None)

    def _use(self, key: BlockKey) -> None:
        pass

    def _uncover(self, key: BlockKey, child: BlockKey) -> None:
        self._oldest_first[key] = None
        self._oldest_first.move_to_end(key, last=False)

    def _cool(self, key: BlockKey) -> None:
        if self._is_leaf(key):
            self._oldest_first.move_to_end(key, last=False)
