"""From a Hugging Face `config.json` to an `Architecture`.

What decides about KV is read strictly: a missing or unknown field is refused by name. Weights
are counted for the FLOPs of prefill, where norms and biases do not matter and are left out.

Source: the configuration classes of Hugging Face transformers; the layouts of MLA in FP8 (512
bytes of latent, 16 of scales, 128 of bf16 position) and of its indexer (128 bytes and a scale
of 4) are those of vLLM and of DeepSeek's FlashMLA.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tierd_bench.planning.architecture import Architecture, Layers
from tierd_bench.planning.errors import PlanError
from tierd_bench.planning.fields import Fields
from tierd_bench.planning.recurrent import recurrent_layers
from tierd_bench.planning.weights import linear_params

_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_FP8_SCALE_BYTES: Final = 4
_FP8_SCALED: Final = 128
_POSITION_BYTES: Final = 2
_FULL: Final = ("full_attention", "attention", "global_attention")
_WINDOWED: Final = ("sliding_attention", "chunked_attention", "local_attention")
_RECURRENT: Final = ("linear_attention", "mamba")


def read_config(path: Path) -> Architecture:
    """Return the architecture of a `config.json`, or of a folder that has one.

    Raises:
        PlanError: the file is missing, no JSON, or has fields that are not understood.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as fault:
        raise PlanError(f"{file}: {fault.strerror}", "name a config.json that is there") from fault
    except ValueError as fault:
        raise PlanError(f"{file}: not JSON: {fault}", "name a model's config.json") from fault
    if not isinstance(values, dict):
        raise PlanError(f"{file}: no JSON object", "name a model's config.json")
    named = values.get("_name_or_path")
    return architecture_of(str(named or file.absolute().parent.name), values, str(file))


def architecture_of(name: str, values: Mapping[str, Any], source: str) -> Architecture:
    """Return the architecture that the fields of a configuration describe.

    Raises:
        PlanError: a field is missing, wrong, or not understood.
    """
    # Models that also see keep what they read with in a part of its own.
    inner = values.get("text_config") or values
    dtype = inner.get("dtype") or inner.get("torch_dtype")
    dtype = dtype or values.get("dtype") or values.get("torch_dtype") or "bfloat16"
    if dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise PlanError(
            f"{source}: field 'dtype' is {dtype!r}, wanted {known}", "write one of them"
        )
    fields = Fields(source, inner)
    layers = _latent(fields) if fields.has("kv_lora_rank") else _by_kind(fields)
    linear = linear_params(fields, layers)
    head = fields.whole("hidden_size") * fields.whole("vocab_size", default=0)
    context = fields.whole("max_position_embeddings", default=0)
    fields.refuse_unread()
    notes = tuple(_notes(fields, layers))
    return Architecture(name, layers, linear, head, _DTYPES[dtype], context, notes)


def _notes(fields: Fields, layers: tuple[Layers, ...]) -> list[str]:
    notes = []
    if any(one.kind == "sliding" for one in layers):
        notes.append("blocks hold the layers with a window whole, as tierd keeps them")
    if any(one.kind == "recurrent" for one in layers):
        notes.append("a block holds the state of each recurrent layer at its end, in float32")
    if not fields.text("model_type"):
        notes.append("no field 'model_type': read as a decoder with gated MLPs")
    return notes


def _latent(fields: Fields) -> tuple[Layers, ...]:
    """Return the layers of multi-head latent attention, with or without an indexer."""
    count = fields.whole("num_hidden_layers")
    heads = fields.whole("num_attention_heads")
    rank, position = fields.whole("kv_lora_rank"), fields.whole("qk_rope_head_dim")
    # Prefill multiplies keys and values out; sparse attention works on the latents instead.
    width = (fields.whole("qk_nope_head_dim") + position + fields.whole("v_head_dim")) / 2
    fields.whole("num_key_value_heads", default=0)
    if not fields.has("index_topk"):
        return (Layers(count, 1, rank + position, attention_width=heads * width),)
    index_size = fields.whole("index_head_dim")
    scaled = rank + _FP8_SCALE_BYTES * rank // _FP8_SCALED + _POSITION_BYTES * position
    return (
        Layers(
            count,
            kv_heads=1,
            head_elements=rank + position,
            fixed_bytes=index_size + _FP8_SCALE_BYTES * index_size // _FP8_SCALED,
            fp8_bytes=scaled,
            attention_width=heads * (2 * rank + position) / 2,
            span=fields.whole("index_topk"),
            index_width=fields.whole("index_n_heads") * index_size,
        ),
    )


def _by_kind(fields: Fields) -> tuple[Layers, ...]:
    kinds = _kinds(fields)
    layers = []
    full = sum(kind in _FULL for kind in kinds)
    windowed = sum(kind in _WINDOWED for kind in kinds)
    if full:
        layers.append(_heads(fields, full, 0))
    if windowed:
        window = fields.whole("sliding_window", "attention_chunk_size")
        layers.append(_heads(fields, windowed, window))
    layers += [
        recurrent_layers(fields, kind, kinds.count(kind)) for kind in _RECURRENT if kind in kinds
    ]
    return tuple(layers)


def _heads(fields: Fields, count: int, window: int) -> Layers:
    """Return layers of attention heads: MHA, GQA and MQA differ in how many keep KV."""
    queries = fields.whole("num_attention_heads")
    kv_heads = fields.whole("num_key_value_heads", "num_kv_heads", default=0)
    one_head = fields.flag("multi_query") == "yes"
    if one_head and fields.flag("new_decoder_architecture") == "no":
        kv_heads = 1
    kv_heads = kv_heads or queries
    if not queries or queries % kv_heads:
        raise fields.wrong("num_key_value_heads", kv_heads, f"a divisor of {queries} query heads")
    size = head_size(fields)
    value_size = fields.whole("v_head_dim", default=size)
    width = queries * (size + value_size) / 2
    heads = Layers(count, kv_heads, size + value_size, attention_width=width)
    if not window:
        return heads
    return Layers(
        count,
        kv_heads,
        size + value_size,
        kind="sliding",
        window_tokens=window,
        attention_width=width,
        span=window,
    )


def head_size(fields: Fields) -> int:
    """Return the size of a query's and key's head."""
    if fields.has("head_dim"):
        return fields.whole("head_dim")
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    if not heads or hidden % heads:
        raise fields.wrong("num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
    return hidden // heads


def _kinds(fields: Fields) -> list[str]:
    """Return the kind of every layer."""
    count = fields.whole("num_hidden_layers")
    kinds = fields.texts("layer_types")
    # With `layer_types` these say the same again, or what the window is.
    interval = fields.whole("full_attention_interval", default=0)
    pattern = fields.whole("sliding_window_pattern", default=0)
    window = fields.whole("sliding_window", default=0)
    fields.whole("attention_chunk_size", default=0)
    fields.places("no_rope_layers")
    if kinds:
        known = (*_FULL, *_WINDOWED, *_RECURRENT)
        for kind in kinds:
            if kind not in known:
                raise fields.wrong("layer_types", kind, f"layers of {', '.join(known)}")
        if len(kinds) != count:
            raise fields.wrong("layer_types", f"{len(kinds)} layers", f"{count}, one a layer")
        return kinds
    if interval:
        return _every(count, interval, "linear_attention")
    family = fields.text("model_type")
    pattern = pattern or _PATTERNS.get(family, 0)
    if window and pattern:
        return _every(count, pattern, "sliding_attention")
    if not window or fields.flag("use_sliding_window", "yes") == "no":
        return ["full_attention"] * count
    full = fields.whole("max_window_layers", default=0)
    return ["full_attention"] * min(full, count) + ["sliding_attention"] * max(0, count - full)


_PATTERNS: Final = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4}
"""Every how many layers one attends to everything, where files of a family may leave it out."""


def _every(count: int, interval: int, others: str) -> list[str]:
    return ["full_attention" if at % interval == 0 else others for at in range(1, count + 1)]


def check_ranks(architecture: Architecture, tensor_parallel: int) -> None:
    """Refuse a tensor-parallel size over which the KV heads cannot be dealt out evenly."""
    for layers in architecture.layers:
        heads = layers.kv_heads
        if heads and heads % tensor_parallel and tensor_parallel % heads:
            raise PlanError(
                f"{heads} KV heads do not go into {tensor_parallel} ranks",
                "use a tensor-parallel size that divides the KV heads, or is a multiple of them",
            )


def by_hand(token_bytes: int, active_params: float, tensor_parallel: int) -> Architecture:
    """Return an architecture of which no more is known than two figures.

    Units: `token_bytes` are those of a token on all ranks.
    """
    rank_bytes = -(-token_bytes // tensor_parallel)
    layers = (Layers(1, kv_heads=tensor_parallel, fixed_bytes=rank_bytes),)
    note = "attention's FLOPs are left out: the number of parameters does not tell them"
    return Architecture("a model given by hand", layers, active_params, notes=(note,))
