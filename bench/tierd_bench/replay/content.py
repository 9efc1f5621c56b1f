"""What a replayed block holds: bytes that follow from its key, so that any wrong byte shows.

Every block is a window of one fixed pseudo-random pattern, at a place that its key decides, with
a stamp of key and page number at the start of every 4 KiB page. A block served in place of
another, a page of an older block, a page at the wrong place and a page half written all differ
from what the key says. Making and checking cost about one memory copy each.
"""

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierd.core.keys import KEY_BYTES, BlockKey
from tierd.core.units import PAGE_BYTES, round_up

Bytes = NDArray[np.uint8]

_SHIFTS: Final = 1 << 20
"""Different windows of the pattern, one byte apart."""

_STAMP_BYTES: Final = KEY_BYTES + 8
_SEED: Final = 20_26

# Compares at the speed of memory and lets other threads run meanwhile; numpy would write a mask
# as long as the block first.
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(frozen=True, slots=True)
class CorruptPage:
    """The first page of a block that does not hold what the block's key says."""

    key: BlockKey
    page: int

    def __str__(self) -> str:
        return f"block {self.key.hex()}, page {self.page}"


class BlockContent:
    """Writes and checks blocks of one size.

    Concurrency: not thread-safe, since it keeps a scratch block; the pattern is shared.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes: Final = block_bytes
        padded = round_up(block_bytes, PAGE_BYTES)
        self._pattern: Final = _pattern(padded)
        self._expected: Final = np.empty(padded, np.uint8)
        self._pages: Final = self._expected.reshape(-1, PAGE_BYTES)
        numbers = np.arange(len(self._pages), dtype="<u8")
        self._pages_stamped: Final = numbers.view(np.uint8).reshape(-1, 8)

    def fill(self, target: memoryview | Bytes, key: BlockKey) -> None:
        """Write the bytes of `key` to all of `target`."""
        np.frombuffer(target, np.uint8)[:] = self._make(key)

    def corrupt_page(self, found: memoryview | Bytes, key: BlockKey) -> CorruptPage | None:
        """Return the first page of `found` that is not as `key` says, or None if all are."""
        wanted = self._make(key)
        given = np.frombuffer(found, np.uint8)
        assert given.shape == wanted.shape, (given.shape, wanted.shape)
        if not _memcmp(given.ctypes.data, wanted.ctypes.data, self._block_bytes):
            return None
        return CorruptPage(key, int(np.argmax(given != wanted)) // PAGE_BYTES)

    def _make(self, key: BlockKey) -> Bytes:
        shift = int.from_bytes(key[:8], "little") % _SHIFTS
        self._expected[:] = self._pattern[shift : shift + len(self._expected)]
        self._pages[:, :KEY_BYTES] = np.frombuffer(key, np.uint8)
        self._pages[:, KEY_BYTES:_STAMP_BYTES] = self._pages_stamped
        return self._expected[: self._block_bytes]


@lru_cache(maxsize=2)
def _pattern(padded_bytes: int) -> Bytes:
    random = np.random.default_rng(_SEED)
    return random.integers(0, 256, padded_bytes + _SHIFTS, dtype=np.uint8)
