"""Tiny models with random weights, made on the spot: enough layers that a wrong block shows.

Weights are drawn wide, so that attention looks at few tokens and their keys and values decide what
comes out: with the usual narrow ones a model hardly notices what is in its cache.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

VOCABULARY: Final = 256
MODEL_TOKENS: Final = 2048
WINDOW: Final = 64
"""Tokens that a layer with a sliding window looks back at."""

ADAPTER_RANK: Final = 8

_SHAPE: Final = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": MODEL_TOKENS,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def _llama() -> Any:
    return LlamaConfig(num_hidden_layers=3, **_SHAPE)


def _qwen3() -> Any:
    return Qwen3Config(num_hidden_layers=2, **_SHAPE)


def _gemma3() -> Any:
    """Layers with a window and layers without, in turn."""
    return Gemma3TextConfig(
        num_hidden_layers=4,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2,
        query_pre_attn_scalar=32,
        **_SHAPE,
    )


def _deepseek() -> Any:
    """Latent attention, in the only sizes that vLLM has on CPUs, and no experts."""
    heads = _SHAPE["num_attention_heads"]
    own = {"num_key_value_heads": heads, "head_dim": 64}
    return DeepseekV2Config(
        num_hidden_layers=2,
        first_k_dense_replace=2,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=32,
        v_head_dim=32,
        **{**_SHAPE, **own},
    )


MAKES: Final[dict[str, Callable[[], Any]]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "deepseek": _deepseek,
}


def make(name: str, directory: Path, seed: int = 0) -> Path:
    """Write a model of `MAKES` with its tokenizer, and return where."""
    torch.manual_seed(seed)
    config = MAKES[name]()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # What a token is must not count for more than what came before it.
    model.get_input_embeddings().weight.data /= 10
    model.save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    return directory


def make_adapter(directory: Path, seed: int) -> Path:
    """Write a LoRA adapter for the model "llama", in place of what is there; return where."""
    config = _llama()
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    rows = {"q_proj": heads * config.head_dim, "v_proj": key_heads * config.head_dim}
    torch.manual_seed(seed)
    weights = {}
    for layer in range(config.num_hidden_layers):
        for name, count in rows.items():
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(ADAPTER_RANK, config.hidden_size) / 2
            weights[f"{module}.lora_B.weight"] = torch.randn(count, ADAPTER_RANK) / 2
    directory.mkdir(exist_ok=True)
    save_file(weights, directory / "adapter_model.safetensors")
    told = {
        "peft_type": "LORA",
        "r": ADAPTER_RANK,
        "lora_alpha": ADAPTER_RANK,
        "target_modules": list(rows),
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(told))
    return directory


def _tokenizer() -> Any:
    """Return a tokenizer that makes each byte a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MODEL_TOKENS,
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    )
