"""What a replayed block holds: bytes that follow from its key, so that any wrong byte shows.

Every block is a window of one fixed pseudo-random pattern, at a place that its key decides, with
a stamp of key and page number at the start of every 4 KiB page. A block served in place of
another, a page of an older block, a page at the wrong place and a page half written all differ
from what the key says. Making and checking cost about one memory copy each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tierd.core.keys import KEY_BYTES, BlockKey, join_keys
from tierd.core.units import PAGE_BYTES, KiB, round_up

Bytes = NDArray[np.uint8]

_SHIFTS: Final = 1 << 20
"""Different windows of the pattern, one byte apart."""

_STAMP_BYTES: Final = KEY_BYTES + 8
_SEED: Final = 20_26
_BATCH_BYTES: Final = 256 * KiB
"""Made at once: many small blocks cost as much as a large one, and all stay in the cache."""


@dataclass(frozen=True, slots=True)
class CorruptPage:
    """The first page of a block that does not hold what the block's key says."""

    key: BlockKey
    page: int

    def __str__(self) -> str:
        return f"block {self.key.hex()}, page {self.page}"


class BlockContent:
    """Writes and checks blocks of one size. Thread-safe."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes: Final = block_bytes
        padded = round_up(block_bytes, PAGE_BYTES)
        self._windows: Final = sliding_window_view(_pattern(padded), padded)
        numbers = np.arange(padded // PAGE_BYTES, dtype="<u8")
        self._page_numbers: Final = numbers.view(np.uint8).reshape(-1, 8)
        self._batch: Final = max(1, _BATCH_BYTES // padded)

    def fill(self, targets: Sequence[memoryview], keys: Sequence[BlockKey]) -> None:
        """Write the bytes of each key to all of its target."""
        for at, blocks in self._batches(keys):
            for target, block in zip(targets[at : at + len(blocks)], blocks, strict=True):
                np.frombuffer(target, np.uint8)[:] = block

    def corrupt_pages(self, found: Bytes, keys: Sequence[BlockKey]) -> list[CorruptPage]:
        """Return the first wrong page of every block of `found` that is not as its key says.

        Shapes: found [n, block_bytes], for n keys.
        """
        assert found.shape == (len(keys), self._block_bytes), (found.shape, len(keys))
        corrupt = []
        for at, wanted in self._batches(keys):
            given = found[at : at + len(wanted)]
            if np.array_equal(given, wanted):
                continue
            differs = given != wanted
            for row in np.flatnonzero(differs.any(axis=1)).tolist():
                page = int(differs[row].argmax()) // PAGE_BYTES
                corrupt.append(CorruptPage(keys[at + row], page))
        return corrupt

    def _batches(self, keys: Sequence[BlockKey]) -> Iterator[tuple[int, Bytes]]:
        """Yield what blocks have to hold, some at a time, with the place of the first."""
        for at in range(0, len(keys), self._batch):
            joined = join_keys(keys[at : at + self._batch])
            shifts = np.frombuffer(joined, "<u8")[::2] % _SHIFTS
            blocks = self._windows[shifts]
            pages = blocks.reshape(len(shifts), -1, PAGE_BYTES)
            pages[:, :, :KEY_BYTES] = np.frombuffer(joined, np.uint8).reshape(-1, 1, KEY_BYTES)
            pages[:, :, KEY_BYTES:_STAMP_BYTES] = self._page_numbers
            yield at, blocks[:, : self._block_bytes]


@lru_cache(maxsize=2)
def _pattern(padded_bytes: int) -> Bytes:
    random = np.random.default_rng(_SEED)
    return random.integers(0, 256, padded_bytes + _SHIFTS, dtype=np.uint8)
