"""How often keys were seen lately, in little memory: a count-min sketch that ages."""

from typing import Final

from xxhash import xxh3_128_intdigest

from tierd.core.keys import BlockKey

_ROWS: Final = 4
_ROW_BITS: Final = 32
_COUNT_MAX: Final = 15
_SAMPLE: Final = 10
"""Sightings, for each place in a row, after which all counts are halved."""


class FrequencySketch:
    """Estimates how often a key was seen lately: never too low before ageing, seldom too high.

    `grow` doubles the rows as more keys are to be told apart; counts are kept.

    Units: 4 bytes a key expected. O(1) to see and to ask; the halving is O(1) for each sighting
    on average.

    Source: Cormode and Muthukrishnan, the count-min sketch (2005); conservative update by Estan
    and Varghese (2002); the ageing is TinyLFU's (Einziger et al., 2017).
    """

    def __init__(self, keys_expected: int = 1024) -> None:
        self._width = 64
        self._rows = [bytearray(self._width) for _ in range(_ROWS)]
        self._seen = 0
        self.grow(keys_expected)

    def grow(self, keys_expected: int) -> None:
        """Make room for so many keys. Rows never shrink."""
        while self._width < keys_expected:
            # What is looked up at either of the two places that one became finds its count.
            self._rows = [row + row for row in self._rows]
            self._width *= 2

    def see(self, key: BlockKey) -> None:
        """Count one sighting of `key`."""
        places = self._places(key)
        count = min(row[place] for row, place in zip(self._rows, places, strict=True))
        if count < _COUNT_MAX:
            for row, place in zip(self._rows, places, strict=True):
                if row[place] == count:
                    row[place] = count + 1
        self._seen += 1
        if self._seen >= _SAMPLE * self._width:
            self._seen //= 2
            self._rows = [row.translate(_HALVED) for row in self._rows]

    def count(self, key: BlockKey) -> int:
        """Return how often `key` was seen lately, 15 at most."""
        return min(row[at] for row, at in zip(self._rows, self._places(key), strict=True))

    def _places(self, key: BlockKey) -> list[int]:
        digest = xxh3_128_intdigest(key)
        mask = self._width - 1
        return [digest >> (_ROW_BITS * row) & mask for row in range(_ROWS)]


_HALVED: Final = bytes(count // 2 for count in range(256))
