"""Between an engine's per-layer keys and values and contiguous blocks. Needs torch.

A part of a block holds the layers one after another, of each the keys, then the values:

    keys    [key_heads, block_tokens, key_size]
    values  [value_heads, block_tokens, value_size]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from tierd.core.layouts import LayerGroup, LayoutSpec

ORDER = "planes,heads,tokens,head_size"
"""`LayoutSpec.order` of these blocks: within a layer, keys before values, heads before tokens."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of every token. `window_tokens` is 0 where it looks at all of them."""

    key_heads: int
    key_size: int
    value_heads: int
    value_size: int
    window_tokens: int = 0

    def group(self, layers: int) -> LayerGroup:
        """Return the layout's word for so many of these."""
        planes, heads, size = 2, self.key_heads, self.key_size
        if (heads, size) != (self.value_heads, self.value_size):  # One plane to the layout.
            size = heads * size + self.value_heads * self.value_size
            planes, heads = 1, 1
        if self.window_tokens:
            return LayerGroup(layers, heads, size, planes, "sliding", self.window_tokens)
        return LayerGroup(layers, heads, size, planes)


def layout_of(
    shapes: Sequence[LayerShape], block_tokens: int, dtype: torch.dtype, **identity: str
) -> LayoutSpec:
    """Return the layout of a model's keys and values; `identity` are its fields that are texts.

    Raises:
        InvalidRequest: tierd keeps no such dtype, or a field has another value that cannot be.
    """
    groups = tuple(shape.group(len(list(run))) for shape, run in groupby(shapes))
    name = str(dtype).removeprefix("torch.")
    given: dict[str, Any] = {"order": ORDER, **identity}
    return LayoutSpec(groups=groups, block_tokens=block_tokens, dtype=name, **given)


class BlockTensors:
    """Blocks of a layout that `layout_of` made, as tensors.

    Shapes: blocks [n, items], contiguous, of the layers' dtype; dense is one sequence's keys or
    values [heads, tokens, size] of one layer, in any strides.
    """

    def __init__(self, shapes: Sequence[LayerShape], block_tokens: int, dtype: torch.dtype) -> None:
        self.shapes = tuple(shapes)
        self.block_tokens = block_tokens
        self.dtype = dtype
        self._offsets: list[tuple[int, int]] = []
        items = 0
        for shape in self.shapes:
            values = items + block_tokens * shape.key_heads * shape.key_size
            self._offsets.append((items, values))
            items = values + block_tokens * shape.value_heads * shape.value_size
        self.items = items

    def empty(self, count: int, device: torch.device) -> torch.Tensor:
        """Return room for so many blocks."""
        return torch.empty((count, self.items), dtype=self.dtype, device=device)

    def keys_values(self, blocks: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of a layer's keys and values, each [n, heads, block_tokens, size]."""
        shape, (keys, values) = self.shapes[layer], self._offsets[layer]
        return (
            self._view(blocks, keys, shape.key_heads, shape.key_size),
            self._view(blocks, values, shape.value_heads, shape.value_size),
        )

    def _view(self, blocks: torch.Tensor, offset: int, heads: int, size: int) -> torch.Tensor:
        tokens = self.block_tokens
        items = blocks.narrow(1, offset, heads * tokens * size)
        return items.view(len(blocks), heads, tokens, size)


def scatter_tokens(parts: torch.Tensor, dense: torch.Tensor, start: int) -> None:
    """Fill `dense` with the tokens that begin at token `start` of the blocks.

    Shapes: parts [n, heads, block_tokens, size] as from `keys_values`; dense [heads, tokens,
    size]. Units: copies every byte of `dense` once.
    """
    for inside, outside in _pieces(parts, dense, start):
        outside.copy_(inside, non_blocking=True)


def gather_tokens(dense: torch.Tensor, parts: torch.Tensor, start: int = 0) -> None:
    """Fill the blocks from token `start` on with `dense`: the inverse of `scatter_tokens`."""
    for inside, outside in _pieces(parts, dense, start):
        inside.copy_(outside, non_blocking=True)


def _pieces(
    parts: torch.Tensor, dense: torch.Tensor, start: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pairs of equal shape: in the blocks, and in `dense`. At most three: a block's end,
    whole blocks, a block's beginning."""
    block_tokens = parts.shape[2]
    at, tokens = 0, dense.shape[1]
    while at < tokens:
        block, offset = divmod(start + at, block_tokens)
        count = min(block_tokens - offset, tokens - at)
        blocks = 1
        if count == block_tokens:
            blocks = (tokens - at) // block_tokens
        # [blocks, heads, count, size] -> [heads, blocks, count, size]
        inside = parts[block : block + blocks, :, offset : offset + count].transpose(0, 1)
        taken = dense.narrow(1, at, blocks * count)
        outside = taken.view(len(dense), blocks, count, dense.shape[2])
        yield inside, outside
        at += blocks * count
