"""The sums of pages: what they are, and what errors they find."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tierd.core.sums import PAGE_WORDS, WEIGHTS, fold, page_sums

PAGE = 4096

SIZES = st.one_of(st.integers(1, 3 * PAGE), st.sampled_from([PAGE, 2 * PAGE, 64 * PAGE + 1]))


@st.composite
def payloads(draw: st.DrawFn) -> bytearray:
    """Bytes of any length: random ones, or of few values, as caches often are."""
    size, seed = draw(SIZES), draw(st.integers(0, 2**32))
    top = draw(st.sampled_from([1, 2, 255]))
    return bytearray(np.random.default_rng(seed).integers(0, top + 1, size, dtype=np.uint8))


def sum_of(payload: bytes | bytearray) -> int:
    return fold(page_sums(memoryview(payload)))


def by_hand(payload: bytes | bytearray) -> bytes:
    """The definition in FORMAT.md, word by word."""
    weights = [int(weight) for weight in WEIGHTS]
    padded = bytes(payload).ljust(-(-len(payload) // PAGE) * PAGE, b"\0")
    sums = bytearray()
    for start in range(0, len(padded), PAGE):
        words = (
            int.from_bytes(padded[at : at + 4], "little", signed=True)
            for at in range(start, start + PAGE, 4)
        )
        total = sum(weight * word for weight, word in zip(weights, words, strict=True))
        sums += (total % 2**64).to_bytes(8, "little")
    return bytes(sums)


@pytest.mark.parametrize("size", [0, 1, 4, 4095, 4096, 4097, 12288, 13001])
def test_sums_are_those_of_the_definition(size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    assert page_sums(memoryview(payload)) == by_hand(payload)


def test_the_sum_of_these_bytes_is_this() -> None:
    """A failure here means that a GPU no longer verifies what released versions wrote."""
    assert sum_of(bytes(range(256)) * 33) == 4282967854823129852


def test_no_change_of_a_word_and_no_exchange_of_two_adds_up_to_nothing() -> None:
    """Words are 32 bits wide and sums 64: weights must be odd, and no two equal below bit 33."""
    weights = [int(weight) for weight in WEIGHTS]
    assert len(weights) == PAGE_WORDS
    assert all(weight % 2 for weight in weights)
    assert all((a - b) % 2**33 for a, b in combinations(weights, 2))


@given(payload=payloads(), data=st.data())
def test_a_flipped_bit_is_found(payload: bytearray, data: st.DataObject) -> None:
    at, bit = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.integers(0, 7))
    before = sum_of(payload)
    payload[at] ^= 1 << bit
    assert sum_of(payload) != before


@given(payload=payloads(), data=st.data(), size=st.sampled_from([1, 2, 4, 8, 64]))
def test_words_exchanged_are_found(payload: bytearray, data: st.DataObject, size: int) -> None:
    places = st.integers(0, len(payload) // size)
    one, other = (at * size for at in sorted((data.draw(places), data.draw(places))))
    first, second = payload[one : one + size], payload[other : other + size]
    assume(first != second and len(first) == len(second))
    before = sum_of(payload)
    payload[one : one + size], payload[other : other + size] = second, first
    assert sum_of(payload) != before


@given(payload=payloads(), data=st.data())
def test_a_piece_zeroed_is_found(payload: bytearray, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(payload) - 1))
    size = data.draw(st.sampled_from([1, 512, PAGE, 4 * PAGE]))
    piece = payload[at : at + size]
    assume(any(piece))
    before = sum_of(payload)
    payload[at : at + size] = bytes(len(piece))
    assert sum_of(payload) != before


@given(payload=payloads(), by=st.sampled_from([1, 4, 8, 512, PAGE, 2 * PAGE]))
def test_bytes_shifted_are_found(payload: bytearray, by: int) -> None:
    shifted = bytearray(by) + payload[: max(0, len(payload) - by)]
    shifted = shifted[: len(payload)]
    assume(shifted != payload)
    assert sum_of(shifted) != sum_of(payload)


@given(seed=st.integers(0, 2**32), data=st.data())
def test_pages_in_another_order_are_found(seed: int, data: st.DataObject) -> None:
    pages = [np.random.default_rng(seed + page).bytes(PAGE) for page in range(6)]
    order = data.draw(st.permutations(range(6)))
    assume(any(there < here for here, there in pairwise(order)))
    moved = b"".join(pages[page] for page in order)
    assert sum_of(moved) != sum_of(b"".join(pages))
