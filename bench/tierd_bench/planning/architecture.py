"""A model as far as its KV goes: bytes that a token leaves behind, FLOPs that prefilling takes.

How a `config.json` becomes one of these is `config`'s business; how blocks lie in slots is that
of `tierd.core.layouts`, which is asked for every size of a block.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

from tierd.core.layouts import GroupKind, LayerGroup, LayoutSpec

DTYPE_BYTES: Final = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
"""What KV may be kept in, by the name that people use."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers of one kind.

    Units: `head_elements` are those of one KV head and token, key and value together; a latent
    (MLA) is one head. `fixed_bytes` come with each token whatever the dtype, in FP8 instead of
    it if `fp8_bytes` says so. `state_bytes` is a recurrent layer's state, all heads, at
    the end of a block. `attention_width` is query heads times the mean of a key's and a value's
    size, `span` to how many tokens a query attends at most, `index_width` the width of the
    indexer that picks them among all.
    """

    count: int
    kv_heads: int = 0
    head_elements: int = 0
    kind: GroupKind = "full"
    window_tokens: int = 0
    fixed_bytes: int = 0
    fp8_bytes: int = 0
    state_bytes: int = 0
    attention_width: float = 0.0
    span: float = inf
    index_width: float = 0.0

    def head_bytes(self, dtype: str) -> int:
        """Return the bytes of one KV head of one token in one layer."""
        if dtype == "fp8" and self.fp8_bytes:
            return self.fp8_bytes + self.fixed_bytes
        return self.head_elements * DTYPE_BYTES[dtype] + self.fixed_bytes

    def heads_a_rank(self, tensor_parallel: int) -> int:
        """Return the KV heads of a rank: a head is replicated when there are more ranks."""
        return -(-self.kv_heads // tensor_parallel)

    def attention_flops(self, new: float, cached: float) -> float:
        """Return the FLOPs of causal attention of `new` tokens after `cached` ones, one layer."""
        attended = _attended(new, cached, self.span)
        everything = _attended(new, cached, inf)
        return 4 * self.attention_width * attended + 2 * self.index_width * everything


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's layers and weights.

    Units: `linear_params` are the weights that each token is multiplied with, embeddings left out;
    of experts those that are active. `head_params` are met once a prefill, by its last token.
    `context_tokens` is the longest context, 0 where unknown. `notes` is what had to be assumed.
    """

    name: str
    layers: tuple[Layers, ...]
    linear_params: float
    head_params: float = 0.0
    dtype: str = "bf16"
    context_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def kv_heads(self) -> int:
        """The KV heads of layers with attention; the most, where layers differ."""
        return max(layers.kv_heads for layers in self.layers)

    def token_bytes(self, dtype: str, tensor_parallel: int = 1) -> int:
        """Return the bytes that a token adds on all ranks, states of recurrent layers left out."""
        return tensor_parallel * self.rank_token_bytes(dtype, tensor_parallel)

    def rank_token_bytes(self, dtype: str, tensor_parallel: int) -> int:
        """Return the bytes that a token adds on one rank."""
        return sum(
            layers.count * layers.heads_a_rank(tensor_parallel) * layers.head_bytes(dtype)
            for layers in self.layers
        )

    def windowed_bytes(self, dtype: str, tensor_parallel: int = 1) -> int:
        """Return the part of `token_bytes` that an engine needs of the last window only."""
        windowed = tuple(layers for layers in self.layers if layers.kind == "sliding")
        return Architecture(self.name, windowed, 0).token_bytes(dtype, tensor_parallel)

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent layers' states at one place, on all ranks."""
        return sum(layers.count * layers.state_bytes for layers in self.layers)

    def layout(self, block_tokens: int, dtype: str, tensor_parallel: int) -> LayoutSpec:
        """Return how tierd keeps a block: all layers, a part a rank, whole pages.

        Raises:
            InvalidRequest: a block would be too large, or there are too many ranks.
        """
        groups = tuple(
            LayerGroup(
                layers=layers.count,
                kv_heads=layers.heads_a_rank(tensor_parallel),
                head_size=layers.head_bytes(dtype),
                planes=1,
                kind=layers.kind,
                window_tokens=layers.window_tokens,
                state_bytes=-(-layers.state_bytes // tensor_parallel),
            )
            for layers in self.layers
        )
        # Sizes are in bytes here, since an indexer's do not follow the dtype.
        return LayoutSpec(self.name, groups, block_tokens, "uint8", tensor_parallel)

    def prefill_flops(self, new: float, cached: float = 0.0) -> float:
        """Return the FLOPs of prefilling `new` tokens that come after `cached` ones."""
        if new <= 0:
            return 0.0
        attention = sum(
            layers.count * layers.attention_flops(new, cached) for layers in self.layers
        )
        return 2 * self.linear_params * new + 2 * self.head_params + attention


def _attended(new: float, cached: float, span: float) -> float:
    """Return how many pairs of a new token and one that it attends to there are."""
    growing = min(new, max(0.0, span - cached))
    pairs = growing * (cached + growing / 2)
    return pairs + (new - growing) * span if new > growing else pairs
