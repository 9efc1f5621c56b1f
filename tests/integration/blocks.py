"""Blocks whose bytes follow from their key: whoever has the key can tell a wrong byte."""

from collections.abc import Sequence
from hashlib import shake_128
from typing import Final

import numpy as np

from tests.integration.daemons import eventually
from tierd_client import BlockKey, LayerGroup, LayoutSpec, Namespace, chain_keys, opaque_layout

Bytes = np.ndarray[tuple[int, int], np.dtype[np.uint8]]

LAYOUT: Final = opaque_layout("test", block_tokens=16, token_bytes=256)
"""Blocks of 4096 bytes: 16 of them fill a region."""

ODD: Final = opaque_layout("odd", block_tokens=16, token_bytes=333)
"""Parts of 5328 bytes, which are no whole pages."""

SHARDED: Final = LayoutSpec(
    "sharded", (LayerGroup(layers=3, kv_heads=1, head_size=50),), block_tokens=16, shards=2
)


_IN_VAIN_MAX: Final = 6


def tokens(seed: int, blocks: int) -> list[int]:
    """Return the tokens of a chain that has no block in common with that of another seed."""
    generator = np.random.default_rng(seed)
    return [int(token) for token in generator.integers(0, 2**32, blocks * 16)]


def chain(seed: int, blocks: int, layout: LayoutSpec = LAYOUT) -> list[BlockKey]:
    """Return the keys of `tokens(seed, blocks)`; a longer one begins like a shorter one."""
    return chain_keys(layout.root, tokens(seed, blocks), layout.block_tokens)


def content(keys: Sequence[BlockKey], layout: LayoutSpec = LAYOUT, part: int = 0) -> Bytes:
    """Return what the blocks of `keys` hold."""
    size = layout.part_bytes
    joined = b"".join(shake_128(key + bytes([part])).digest(size) for key in keys)
    return np.frombuffer(joined, np.uint8).reshape(len(keys), size)


def room(keys: Sequence[BlockKey], layout: LayoutSpec = LAYOUT) -> Bytes:
    """Return memory to fetch `keys` into."""
    return np.zeros((len(keys), layout.part_bytes), np.uint8)


def publish(kv: Namespace, keys: Sequence[BlockKey], part: int = 0) -> int:
    """Publish all of `keys` and return how many are new.

    A namespace that was just opened gets its regions from others, one after another.
    """
    source = content(keys, kv.layout, part)
    if kv.layout.shards > 1 and part == 0:
        # Of a block that waits for its other parts none is written again: all at once, then.
        eventually(lambda: not _declined(kv, keys))
    blocks = in_vain = 0
    # On a busy machine it takes a while until another's blocks are written and their region free.
    while in_vain < _IN_VAIN_MAX:
        published = kv.publish(keys, source, part=part, wait_s=0.5)
        blocks += published.blocks
        if not published.declined:
            break
        in_vain = 0 if published.blocks else in_vain + 1
    return blocks


def _declined(kv: Namespace, keys: Sequence[BlockKey]) -> int:
    """Return how many of `keys` there is no room for now."""
    with kv.reserve(keys, wait_s=0.5) as trial:
        return trial.declined


def fetch(kv: Namespace, keys: Sequence[BlockKey], part: int = 0, wait_s: float = 0.0) -> int:
    """Fetch `keys`, look at every byte of what came, and return how many blocks did."""
    into = room(keys, kv.layout)
    blocks = kv.fetch(keys, into, part=part, wait_s=wait_s).blocks
    assert np.array_equal(into[:blocks], content(keys[:blocks], kv.layout, part))
    return blocks
