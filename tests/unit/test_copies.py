"""Copies between addresses end up where they should, however they are joined and shared out."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tierd.core.errors import InvalidRequest
from tierd_client.buffers import Copy, Scattered, copy_all
from tierd_client.devices import buffers_of

SIZE = 24 << 20


@pytest.fixture
def helper() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def check(copies: Sequence[Copy], helper: ThreadPoolExecutor | None) -> None:
    """Make copies from one array into another, given by offsets, and compare every byte."""
    source = np.random.default_rng(0).integers(1, 256, SIZE, np.uint8)
    target, wanted = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    for to, start, length in copies:
        wanted[to : to + length] = source[start : start + length]
    there, here = target.ctypes.data, source.ctypes.data
    copy_all([(there + to, here + start, length) for to, start, length in copies], helper)
    assert np.array_equal(target, wanted)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "by two threads"])
@pytest.mark.parametrize(
    "copies",
    [
        [(0, 0, SIZE)],
        [(i * 5000, i * 4096, 4096) for i in range(4000)],
        [(i * 100_000, (99 - i) * 120_000, 98_304) for i in range(100)],
        [((99 - i) * 120_000, (99 - i) * 120_000, 98_304) for i in range(100)],
        [(i * 65_536, 7, 65_536) for i in range(200)],
        [(i * 10_000 + i % 3, i * 9_000, 8_000) for i in range(2000)],
        [*((i * 9000, i * 9000, 9000) for i in range(1000)), (SIZE - 3, 0, 3)],
        [],
    ],
    ids=[
        "one",
        "equidistant",
        "source backwards",
        "backwards",
        "one source",
        "uneven",
        "rest",
        "0",
    ],
)
def test_every_byte_gets_to_its_place(
    copies: list[Copy], shared: bool, helper: ThreadPoolExecutor
) -> None:
    check(copies, helper if shared else None)


@pytest.mark.parametrize("seed", range(20))
def test_any_copies(seed: int, helper: ThreadPoolExecutor) -> None:
    chosen, copies, at = random.Random(seed), list[Copy](), 0
    while at < SIZE - 600_000:
        length, gap = chosen.randrange(1, 60_000), chosen.choice([0, 0, 64, 5000])
        for _ in range(chosen.choice([1, 1, 2, 7])):
            copies.append((at, at if chosen.random() < 0.8 else at // 2, length))
            at += length + gap
    check(copies, helper)


def test_scattered_blocks_take_any_part_of_a_part() -> None:
    memory = np.zeros(400, np.uint8)
    base = memory.ctypes.data
    # Block 0 lies in three pieces, out of order; of block 1 bytes 30 to 60 are not wanted.
    places = [
        [(base + 300, 0, 40), (base + 10, 70, 30), (base + 100, 40, 30)],
        [(base + 150, 0, 30), (base + 200, 60, 40)],
    ]
    buffers = Scattered(places, 100)
    source = np.arange(1, 201, dtype=np.uint8)
    for index in (0, 1):
        for offset, size in ((0, 45), (45, 1), (46, 54)):
            start = source.ctypes.data + index * 100 + offset
            copy_all(buffers.copies_into(index, offset, start, size), None)
    wanted = np.zeros(400, np.uint8)
    wanted[300:340], wanted[100:130], wanted[10:40] = source[:40], source[40:70], source[70:100]
    wanted[150:180], wanted[200:240] = source[100:130], source[160:200]
    assert np.array_equal(memory, wanted)


def test_scattered_blocks_must_be_of_the_layout() -> None:
    scattered = Scattered([[(0, 0, 8)]], 8)
    assert buffers_of(scattered, 8, 1, writable=True) is scattered
    for part_bytes, count in ((16, 1), (8, 2)):
        with pytest.raises(InvalidRequest, match="1 blocks of 8 bytes"):
            buffers_of(scattered, part_bytes, count, writable=True)
