"""The sums of `tierd.core.sums`, computed where a tensor is. Needs torch.

Only sums come back to the CPU, 8 bytes a page; what they should be is checked by the caller.
"""

from functools import lru_cache
from typing import Final

import torch

from tierd.core.sums import PAGE_WORDS, WEIGHTS
from tierd.core.units import PAGE_BYTES, MiB, round_up

_STRIP_BYTES: Final = 4 * MiB
"""Bytes at a time. An engine leaves little memory free, and the products take twice the bytes."""

_WORD_BYTES: Final = PAGE_BYTES // PAGE_WORDS


def page_sums(part: torch.Tensor) -> bytes:
    """Return the sum of every page of `part`, the last one as if zeros followed it.

    Shapes: part [bytes], uint8, contiguous, anywhere in memory. Stream: queued on the current
    stream, and waited for.
    """
    strips = (part[at : at + _STRIP_BYTES] for at in range(0, len(part), _STRIP_BYTES))
    return b"".join(bytes(_sums(_whole_pages(strip)).cpu().numpy()) for strip in strips)


def _sums(pages: torch.Tensor) -> torch.Tensor:
    words = pages.view(torch.int32).view(-1, PAGE_WORDS)
    return (words * _weights(words.device)).sum(dim=1)


def _whole_pages(strip: torch.Tensor) -> torch.Tensor:
    """Return the bytes in whole pages, at an address where words may lie."""
    size = round_up(len(strip), PAGE_BYTES)
    places = (strip.data_ptr(), strip.storage_offset())
    if size == len(strip) and all(place % _WORD_BYTES == 0 for place in places):
        return strip
    pages = torch.zeros(size, dtype=torch.uint8, device=strip.device)
    pages[: len(strip)] = strip
    return pages


@lru_cache(maxsize=16)
def _weights(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(WEIGHTS.copy()).to(device)
