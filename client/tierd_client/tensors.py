"""Between an engine's per-layer keys and values and contiguous blocks. Needs torch.

Shapes: L layers, H heads of this rank, D head size, T tokens a block, n blocks.

    layers  L pairs of keys and values, each [1, H, tokens, D], as transformers keeps them
    blocks  [n, L, 2, H, T, D], contiguous; blocks[i] are the bytes of one part of block i
"""

from collections.abc import Sequence

import torch

from tierd.core.layouts import LayerGroup, LayoutSpec

ORDER = "planes,heads,tokens,head_size"
"""`LayoutSpec.order` of these blocks: within a layer, keys before values, heads before tokens."""

KeysValues = Sequence[tuple[torch.Tensor, torch.Tensor]]


def layout_of(layers: KeysValues, model: str, block_tokens: int) -> LayoutSpec:
    """Return the layout of a model's keys and values, named `model`."""
    keys, _ = layers[0]
    group = LayerGroup(len(layers), kv_heads=keys.shape[1], head_size=keys.shape[3])
    dtype = str(keys.dtype).removeprefix("torch.")
    return LayoutSpec(model, (group,), block_tokens, dtype=dtype, order=ORDER)


def gather_blocks(layers: KeysValues, block_tokens: int, first: int = 0) -> torch.Tensor:
    """Return the whole blocks of `layers` from block `first` on.

    Units: copies everything once, into new memory of the same device.
    """
    keys, _ = layers[0]
    whole = keys.shape[2] // block_tokens
    start, stop = first * block_tokens, whole * block_tokens
    stacked = torch.stack(
        [torch.stack((k[0, :, start:stop], v[0, :, start:stop])) for k, v in layers]
    )
    # [L, 2, H, n * T, D] -> [n, L, 2, H, T, D]
    split = stacked.view(*stacked.shape[:3], whole - first, block_tokens, stacked.shape[4])
    return split.permute(3, 0, 1, 2, 4, 5).contiguous()


def scatter_blocks(blocks: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the layers whose blocks these are, the inverse of `gather_blocks`."""
    # [n, L, 2, H, T, D] -> [L, 2, H, n * T, D]
    joined = blocks.permute(1, 2, 3, 0, 4, 5).flatten(3, 4)
    return [(layer[0].unsqueeze(0), layer[1].unsqueeze(0)) for layer in joined]


def empty_blocks(layout: LayoutSpec, count: int) -> torch.Tensor:
    """Return room for `count` blocks of a layout that `layout_of` made."""
    group = layout.groups[0]
    shape = (count, group.layers, 2, group.kv_heads, layout.block_tokens, group.head_size)
    return torch.empty(shape, dtype=getattr(torch, layout.dtype))
