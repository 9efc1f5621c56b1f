"""Which blocks are worth writing to a colder tier."""

from collections import OrderedDict

from tierd.core.keys import BlockKey


class AlwaysAdmit:
    """Write every block: nothing is lost at a restart, at the price of the most writes."""

    def admit(self, key: BlockKey) -> bool:
        """Say yes."""
        return True


class SecondTouch:
    """Write a block when it is used for the second time.

    In traffic without sessions one new block in forty is ever read again; a block that was is
    likely to be read a third time. A ghost list remembers the keys seen once.

    Units: `ghosts_max` keys, of some 120 bytes each; beyond it the oldest is forgotten.

    Source: the ghost queue of 2Q (Johnson and Shasha, VLDB 1994).
    """

    def __init__(self, ghosts_max: int = 1 << 18) -> None:
        self._ghosts_max = ghosts_max
        self._seen_once: OrderedDict[BlockKey, None] = OrderedDict()

    def admit(self, key: BlockKey) -> bool:
        """Say whether `key` was seen before, and remember it if not."""
        if key in self._seen_once:
            del self._seen_once[key]
            return True
        self._seen_once[key] = None
        if len(self._seen_once) > self._ghosts_max:
            self._seen_once.popitem(last=False)
        return False
