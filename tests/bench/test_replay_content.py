"""Every wrong byte of a replayed block is noticed, and named by its page."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tierd.core.keys import BlockKey
from tierd.core.units import PAGE_BYTES
from tierd_bench.replay.content import BlockContent, CorruptPage

KEY = BlockKey(b"k" * 16)
OTHER = BlockKey(b"k" * 15 + b"l")
SIZES = [1, 16, 24, 1000, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES + 17, 64 * 1024]


def blocks_of(keys: list[BlockKey], size: int) -> NDArray[np.uint8]:
    blocks = np.zeros((len(keys), size), np.uint8)
    BlockContent(size).fill([block.data for block in blocks], keys)
    return blocks


def corrupt_pages(blocks: NDArray[np.uint8], *keys: BlockKey) -> list[CorruptPage]:
    return BlockContent(blocks.shape[1]).corrupt_pages(blocks, keys)


@pytest.mark.parametrize("size", SIZES)
def test_finds_nothing_wrong_with_what_it_wrote(size: int) -> None:
    assert corrupt_pages(blocks_of([KEY, OTHER], size), KEY, OTHER) == []


@pytest.mark.parametrize("size", [size for size in SIZES if size >= 16])
def test_blocks_of_keys_with_one_window_differ_in_every_page(size: int) -> None:
    # The keys share their first 8 bytes, and with them the window of the pattern.
    one, other = blocks_of([KEY, OTHER], size)
    starts = [at for at in range(0, size, PAGE_BYTES) if size - at >= 24]
    assert all((one[at : at + 24] != other[at : at + 24]).any() for at in starts)
    assert corrupt_pages(other[None], KEY) == [CorruptPage(KEY, 0)]


@pytest.mark.parametrize("at", [0, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES + 99])
def test_names_the_block_and_page_of_one_wrong_byte(at: int) -> None:
    blocks = blocks_of([OTHER, KEY], 3 * PAGE_BYTES)
    blocks[1, at] ^= 1
    (found,) = corrupt_pages(blocks, OTHER, KEY)
    assert found == CorruptPage(KEY, at // PAGE_BYTES)
    assert KEY.hex() in str(found)


def test_notices_pages_in_the_wrong_order() -> None:
    block = blocks_of([KEY], 2 * PAGE_BYTES)
    swapped = np.roll(block, PAGE_BYTES, axis=1)
    assert corrupt_pages(swapped, KEY) == [CorruptPage(KEY, 0)]


def test_finds_every_corrupt_block_of_many() -> None:
    keys = [BlockKey(number.to_bytes(16, "little")) for number in range(600)]
    blocks = blocks_of(keys, PAGE_BYTES)
    blocks[[3, 299, 599]] = 0
    assert [page.key for page in corrupt_pages(blocks, *keys)] == [keys[3], keys[299], keys[599]]
