"""A checksum that a GPU computes as fast as a CPU: one sum a page, and XXH3-64 over the sums.

Bytes that went from the disk straight to a GPU are verified there, by plain integer products and
sums of tensors (`tierd_client.cuda_sums`), and only the sums come back: 8 bytes for 4096. This
is the same for memory that a CPU reads. `tierd/index/FORMAT.md` defines it.

What it finds for certain, but for one chance in 2**64 of XXH3: any change of a single 4-byte word
of a page, and any two words of a page exchanged. All else (a page zeroed, pages exchanged or
shifted, several words wrong) escapes only if in every page that changed the errors cancel, modulo
2**64, under fixed odd weights: one chance in 2**64 for what is not made for it. It is no
protection against somebody who makes bytes to fit, and neither is XXH3.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tierd.core.units import PAGE_BYTES

_WORD = np.dtype("<i4")
_SUM = np.dtype("<i8")

PAGE_WORDS: Final = PAGE_BYTES // _WORD.itemsize


def _weights() -> NDArray[np.int64]:
    """Return an odd number for each word, so that no change of one word adds up to nothing."""
    digests = [xxh3_64_intdigest(index.to_bytes(8, "little")) | 1 for index in range(PAGE_WORDS)]
    return np.array(digests, dtype=np.uint64).view(np.int64)


WEIGHTS: Final = _weights()


def page_sums(payload: memoryview) -> bytes:
    """Return the sum of every page of `payload`, the last one as if zeros followed it.

    Units: 8 bytes a page; one core does 6 GB/s, and 9 of what is in its cache. Concurrency: one
    call into numpy, which lets other threads run.
    """
    whole = len(payload) // PAGE_BYTES * PAGE_BYTES
    sums = _sums(payload[:whole])
    if whole == len(payload):
        return sums
    return sums + _sums(memoryview(bytes(payload[whole:]).ljust(PAGE_BYTES, b"\0")))


def fold(sums: bytes) -> int:
    """Return the one number that stands for the sums of all pages of a part."""
    return xxh3_64_intdigest(sums)


def _sums(pages: memoryview) -> bytes:
    words = np.frombuffer(pages, dtype=_WORD).reshape(-1, PAGE_WORDS)
    # Casts in small pieces as it goes: a product or a matrix product would make a copy of all.
    sums = np.einsum("pw,w->p", words, WEIGHTS, dtype=np.int64, casting="safe")
    return bytes(sums.astype(_SUM, copy=False))
