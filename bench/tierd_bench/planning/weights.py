"""How many weights a token is multiplied with: attention's projections, and MLPs or experts."""

from typing import Final

from tierd_bench.planning.architecture import Layers
from tierd_bench.planning.fields import Fields
from tierd_bench.planning.recurrent import recurrent_params

_NOT_GATED: Final = ("gpt_neox", "falcon", "opt", "phi", "starcoder2", "nemotron", "mpt")
"""Families whose MLPs have two matrices; the others have three."""


def linear_params(fields: Fields, layers: tuple[Layers, ...]) -> int:
    """Return the weights that each token meets in all layers, of experts the active ones."""
    total = 0
    for one in layers:
        if one.kind != "recurrent":
            total += one.count * _attention(fields, one)
    kinds = fields.texts("layer_types")
    for one in layers:
        if one.kind == "recurrent":
            kind = "mamba" if "mamba" in kinds else "linear_attention"
            total += one.count * recurrent_params(fields, kind)
    return total + _mlps(fields)


def _attention(fields: Fields, layers: Layers) -> int:
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    if not fields.has("kv_lora_rank"):
        # Query and output are as wide as the attention, keys and values as what is kept.
        queries = int(2 * layers.attention_width)
        return hidden * (queries + layers.kv_heads * layers.head_elements)
    rank, position = fields.whole("kv_lora_rank"), fields.whole("qk_rope_head_dim")
    inner, value = fields.whole("qk_nope_head_dim"), fields.whole("v_head_dim")
    low = fields.whole("q_lora_rank", default=0)
    wide = heads * (inner + position)
    query = hidden * low + low * wide if low else hidden * wide
    keys = hidden * (rank + position) + rank * heads * (inner + value)
    return query + keys + heads * value * hidden + _indexer(fields, low)


def _indexer(fields: Fields, low: int) -> int:
    if not fields.has("index_topk"):
        return 0
    hidden, heads = fields.whole("hidden_size"), fields.whole("index_n_heads")
    size = fields.whole("index_head_dim")
    return low * heads * size + hidden * (size + heads)


def _mlps(fields: Fields) -> int:
    """Return the weights of all layers' MLPs that a token meets."""
    count, hidden = fields.whole("num_hidden_layers"), fields.whole("hidden_size")
    matrices = 2 if fields.text("model_type") in _NOT_GATED else 3
    experts = fields.whole("n_routed_experts", "num_local_experts", "num_experts", default=0)
    if not experts:
        shared = fields.whole("shared_intermediate_size", default=0)
        wide = fields.whole("intermediate_size", "ffn_hidden_size", default=shared or 4 * hidden)
        return count * matrices * hidden * wide
    dense = _dense_layers(fields, count)
    active = fields.whole("num_experts_per_tok", "experts_per_token", "moe_topk")
    size = fields.whole("moe_intermediate_size", "intermediate_size")
    shared = fields.whole("n_shared_experts", "num_shared_experts", default=0) * size
    shared = fields.whole(
        "shared_expert_intermediate_size", "shared_intermediate_size", default=shared
    )
    # Llama 4: its shared expert is as wide as the others, and dense layers have their own width.
    if fields.has("intermediate_size_mlp"):
        shared = size
    sparse = matrices * hidden * (active * size + shared) + hidden * experts
    dense_size = fields.whole("intermediate_size_mlp", "intermediate_size", default=0)
    return (count - dense) * sparse + dense * matrices * hidden * dense_size


def _dense_layers(fields: Fields, count: int) -> int:
    """Return how many layers of a model with experts have none."""
    first = fields.whole("first_k_dense_replace", default=0)
    step = fields.whole("decoder_sparse_step", "interleave_moe_layer_step", default=1)
    named = set(fields.places("mlp_only_layers"))
    plain = [at for at in range(count) if at < first or at in named or (step and (at + 1) % step)]
    return len(plain)
