"""The models served and the machines that serve them, with the time that computing takes.

Sections are those of this project's notes on the DualPath paper (arXiv 2602.21548).
"""

from dataclasses import dataclass
from math import inf
from typing import Final

from tierd_bench.cluster.assumptions import (
    DECODE_OVERHEAD_S,
    EFFECTIVE_FLOPS,
    HBM_BYTES_PER_S,
    HBM_USABLE_BYTES,
    PREFILL_RESERVE_BYTES,
    SMALL_MODEL_PARAMS,
)
from tierd_bench.planning.models import model_named

PAPER_GPUS: Final = 8
"""GPUs of a node in the paper. Storage NIC and DRAM of smaller nodes shrink in proportion."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model, as far as bytes and FLOPs of its KV go.

    `attention_width` is query width times layers with attention, `attention_span` how many tokens
    a query attends to at most, `index_width` the width of a sparse attention's indexer times its
    layers; for attention over latents (MLA) the query width is heads * (576 + 512) / 2.
    `buffer_bytes` is each engine's part of its node's pinned memory (section 1.2). `lockstep`: the
    engines of `group_nodes` nodes run each step together (expert parallelism).
    """

    name: str
    active_params: float
    weight_bytes: float
    kv_bytes_per_token: float
    attention_width: float
    attention_span: float = inf
    index_width: float = 0.0
    decode_read_bytes_per_token: float = 0.0
    buffer_bytes: float = 10e9
    group_nodes: int = 1
    lockstep: bool = True

    def linear_flops(self, new: float) -> float:
        """Return the FLOPs of `new` tokens outside attention."""
        return 2 * self.active_params * new

    def attention_flops(self, new: float, context: float) -> float:
        """Return the FLOPs of attention of `new` tokens, each to `context` tokens."""
        attended = min(context, self.attention_span)
        return 4 * new * attended * self.attention_width + 2 * new * context * self.index_width

    def attention_s(self, cached: float, new: float) -> float:
        """Return the predicted attention time of a chunk (section 1.3 E: FLOPs to time)."""
        return self.attention_flops(new, cached + new / 2) / EFFECTIVE_FLOPS

    def linear_s(self, new: float) -> float:
        """Return the time of one GPU for `new` tokens outside attention."""
        return self.linear_flops(new) / EFFECTIVE_FLOPS

    def decode_step_s(self, requests: int, tokens: float) -> float:
        """Return the time of a decode step of `requests` with `tokens` of KV: memory-bound."""
        weights = self.weight_bytes / (PAPER_GPUS * self.group_nodes)
        read = weights + tokens * self.decode_read_bytes_per_token
        return DECODE_OVERHEAD_S + read / HBM_BYTES_PER_S + self.linear_s(requests)

    @property
    def _free_bytes(self) -> float:
        """GPU memory beside the weights."""
        return HBM_USABLE_BYTES - self.weight_bytes / (PAPER_GPUS * self.group_nodes)

    @property
    def prefill_kv_tokens(self) -> int:
        """Tokens of KV of whole requests that fit in a prefill engine: what Basic loads into."""
        return int((self._free_bytes - PREFILL_RESERVE_BYTES) / self.kv_bytes_per_token)

    @property
    def decode_kv_tokens(self) -> int:
        """Tokens of KV that fit in a decode engine."""
        return int(self._free_bytes / self.kv_bytes_per_token)

    @property
    def buffer_tokens(self) -> int:
        """Tokens of KV that fit in one engine's part of the pinned memory."""
        return int(self.buffer_bytes / self.kv_bytes_per_token)

    def cache_compute_ratio(self, append: float, context: float) -> float:
        """Return GB of KV to load per PFLOP to compute (section 1.1, Table 1)."""
        loaded = self.kv_bytes_per_token * context
        flops = self.linear_flops(append) + self.attention_flops(append, context)
        return (loaded / 1e9) / (flops / 1e15)


def _heads(
    name: str, known: str, dtype: str, active: float, weights: float, **more: float
) -> Model:
    """Return a model whose KV and attention are those of the layers that attend to everything."""
    (full,) = (one for one in model_named(known).layers if one.kind == "full")
    kv = full.count * full.kv_heads * full.head_bytes(dtype)
    return Model(
        name,
        active_params=active,
        weight_bytes=weights,
        kv_bytes_per_token=kv,
        attention_width=full.attention_width * full.count,
        decode_read_bytes_per_token=kv,
        lockstep=False,
        **more,  # type: ignore[arg-type]
    )


_LATENT_BYTES: Final = 656
_INDEX_BYTES: Final = 132
"""A token's latent KV and indexer key of one layer in FP8 (section 1.5: 61 * (656 + 132) B). The
indexer has half as many heads as attention, of 128, as in DeepSeek-V3.2."""


def _deepseek(
    name: str, active: float, weights: float, layers: int, heads: int, **more: float
) -> Model:
    return Model(
        name,
        active_params=active,
        weight_bytes=weights,
        kv_bytes_per_token=layers * (_LATENT_BYTES + _INDEX_BYTES),
        attention_width=layers * heads * (576 + 512) / 2,
        attention_span=2048,
        index_width=layers * (heads / 2) * 128,
        decode_read_bytes_per_token=layers * _INDEX_BYTES,
        **more,  # type: ignore[arg-type]
    )


MODELS: Final = {
    model.name: model
    for model in (
        # DeepSeek-V3.2. Two nodes hold one copy of the weights.
        _deepseek("ds-660b", 37e9, 660e9, 61, 128, group_nodes=2),
        _deepseek("ds-27b", SMALL_MODEL_PARAMS, 27e9, 30, 32),
        _heads("qwen2.5-32b", "qwen2.5-32b", "bf16", 32e9, 65e9, buffer_bytes=40e9),
        _heads("gpt-oss-120b", "gpt-oss-120b", "fp8", 5.1e9, 65e9),
        _heads("qwen3-235b", "qwen3-235b-a22b", "fp8", 22e9, 235e9),
    )
}
"""By name. GPT-OSS counts its 18 layers of full attention; the others have a window of 128."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A node: GPUs with a compute NIC each, one storage NIC and DRAM (section 1.4).

    `compute_nic` is B in bytes/s and per direction, `storage_share` is s (storage NIC = s * B) and
    `dram` M, half-duplex. `collective_share` of each compute NIC goes to the traffic of the model
    itself, which comes first on its virtual lane; the paper's analysis takes 0.
    """

    gpus: int = PAPER_GPUS
    compute_nic: float = 50e9
    storage_share: float = 1.0
    dram: float = 500e9
    collective_share: float = 0.0

    @classmethod
    def of_gpus(cls, gpus: int) -> "Hardware":
        """Return the paper's node, cut down or up to `gpus` GPUs in every respect."""
        part = gpus / PAPER_GPUS
        return cls(gpus=gpus, storage_share=part, dram=500e9 * part)

    @property
    def storage_nic(self) -> float:
        """Bytes/s of a node's storage NIC."""
        return self.storage_share * self.compute_nic

    @property
    def lane(self) -> float:
        """Bytes/s of a compute NIC that are left to KV, per direction."""
        return self.compute_nic * (1 - self.collective_share)
