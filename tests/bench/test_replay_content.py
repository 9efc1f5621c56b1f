"""Every wrong byte of a replayed block is noticed, and named by its page."""

import numpy as np
import pytest
from tierd_bench.replay.content import BlockContent, CorruptPage

from tierd.core.keys import BlockKey
from tierd.core.units import PAGE_BYTES

KEY = BlockKey(b"k" * 16)
OTHER = BlockKey(b"k" * 15 + b"l")
SIZES = [1, 16, 24, 1000, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES + 17, 64 * 1024]


def block_of(key: BlockKey, size: int) -> memoryview:
    block = memoryview(bytearray(size))
    BlockContent(size).fill(block, key)
    return block


@pytest.mark.parametrize("size", SIZES)
def test_finds_nothing_wrong_with_what_it_wrote(size: int) -> None:
    assert BlockContent(size).corrupt_page(block_of(KEY, size), KEY) is None


@pytest.mark.parametrize("size", SIZES[2:])
def test_blocks_of_keys_with_one_window_differ_in_every_page(size: int) -> None:
    # The keys share their first 8 bytes, and with them the window of the pattern.
    one, other = block_of(KEY, size), block_of(OTHER, size)
    starts = [at for at in range(0, size, PAGE_BYTES) if size - at >= 24]
    assert all(one[at : at + 24] != other[at : at + 24] for at in starts)
    assert BlockContent(size).corrupt_page(other, KEY) == CorruptPage(KEY, 0)


@pytest.mark.parametrize("at", [0, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES + 99])
def test_names_the_page_of_one_wrong_byte(at: int) -> None:
    block = block_of(KEY, 3 * PAGE_BYTES)
    block[at] ^= 1
    found = BlockContent(len(block)).corrupt_page(block, KEY)
    assert found == CorruptPage(KEY, at // PAGE_BYTES)
    assert KEY.hex() in str(found)


def test_notices_pages_in_the_wrong_order() -> None:
    block = block_of(KEY, 2 * PAGE_BYTES)
    swapped = memoryview(bytes(block[PAGE_BYTES:]) + bytes(block[:PAGE_BYTES]))
    assert BlockContent(len(block)).corrupt_page(swapped, KEY) == CorruptPage(KEY, 0)


def test_reads_and_writes_rows_of_arrays() -> None:
    rows = np.zeros((2, PAGE_BYTES), np.uint8)
    content = BlockContent(PAGE_BYTES)
    content.fill(rows[1], KEY)
    assert content.corrupt_page(rows[1], KEY) is None
    assert content.corrupt_page(rows[0], KEY) is not None
