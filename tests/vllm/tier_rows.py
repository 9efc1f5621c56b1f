"""What `tests.vllm.tier_child` stores: keys of vLLM, and rows of bytes that follow from them."""

from hashlib import sha256, shake_128
from typing import Final

ROW_BYTES: Final = 8192

CHUNK_TOKENS: Final = 32


def key_of(seed: int, place: int) -> bytes:
    """Return the key of a block of the requests of one seed: a hash, and the number of a group."""
    return sha256(f"{seed} {place}".encode()).digest() + bytes(4)


def row_of(key: bytes) -> bytes:
    """Return the bytes of a block."""
    return shake_128(key).digest(ROW_BYTES)
