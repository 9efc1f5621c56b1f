"""Block keys: what a block is found by.

A key stands for a block *and* everything before it: `key_i = H(key_{i-1}, tokens_i)`, from the
namespace's root. H is keyed BLAKE2b of 128 bits, cryptographic because a collision would serve
one tenant's KV to another. The functions are deterministic across processes and machines: no
salt of the interpreter is in them.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NewType, cast

import numpy as np
from numpy.typing import ArrayLike

BlockKey = NewType("BlockKey", bytes)

KEY_BYTES: Final = 16


def chain_keys(root: BlockKey, tokens: ArrayLike, block_tokens: int) -> list[BlockKey]:
    """Return the key of every whole block of `tokens`, root first.

    Shapes: tokens [n] integers below 2**32 -> n // block_tokens keys. The tail that does not
    fill a block has no key.

    Source: the chained hash is vLLM's prefix caching; the keyed hash is RFC 7693.
    """
    packed = np.ascontiguousarray(tokens, dtype="<u4").tobytes()
    step = 4 * block_tokens
    whole = len(packed) // step * step
    return _chained(root, (packed[at : at + step] for at in range(0, whole, step)))


def adopt_keys(root: BlockKey, engine_hashes: Sequence[bytes]) -> list[BlockKey]:
    """Return keys for blocks that an engine has hashed by itself, in chain order.

    The engine's hashes must be chained already: equal hash, equal prefix.
    """
    return [
        BlockKey(blake2b(hashed, key=root, digest_size=KEY_BYTES).digest())
        for hashed in engine_hashes
    ]


def join_keys(keys: Iterable[BlockKey]) -> bytes:
    """Return `keys` as they travel: 16 bytes each, one after another."""
    return b"".join(keys)


def split_keys(joined: bytes) -> list[BlockKey]:
    """Return the keys in `joined`, the inverse of `join_keys`; a ragged tail is a bug."""
    assert len(joined) % KEY_BYTES == 0, len(joined)
    return cast(list[BlockKey], list(_keys_struct(len(joined) // KEY_BYTES).unpack(joined)))


@lru_cache(maxsize=64)
def _keys_struct(count: int) -> struct.Struct:
    return struct.Struct("16s" * count)


def _chained(root: BlockKey, pieces: Iterable[bytes]) -> list[BlockKey]:
    keys = []
    key = root
    for piece in pieces:
        key = BlockKey(blake2b(piece, key=key, digest_size=KEY_BYTES).digest())
        keys.append(key)
    return keys
