"""What the machine can do in memory: a plain loop of memcpy over the same blocks."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Blocks = NDArray[np.uint8]
"""Shapes: [blocks, part_bytes], contiguous."""

_libc = ctypes.CDLL(None)
_libc.memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memcpy.restype = None


def addresses(blocks: Sequence[Any] | Blocks) -> list[int]:
    """Return where each block starts. Whoever calls keeps the blocks alive."""
    return [int(np.frombuffer(block, np.uint8).ctypes.data) for block in blocks]


def copy_loop(
    targets: Sequence[int], sources: Sequence[int], block_bytes: int
) -> Callable[[], None]:
    """Return a call that copies every source to its target, one block at a time."""
    memcpy = _libc.memcpy
    pairs = list(zip(targets, sources, strict=True))

    def loop() -> None:
        for target, source in pairs:
            memcpy(target, source, block_bytes)

    return loop
