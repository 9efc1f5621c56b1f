"""Tiny random models made on the spot, and what their own caches say.

    python -m tests.engines.tiny_models SOCKET KIND DTYPE

generates from a prompt in a process of its own, and prints one JSON line: tokens, a digest of
the logits, how many tokens were reused, and from where.
"""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tierd_client import connect
from tierd_client.engines.transformers import TierdCache

BLOCK_TOKENS: Final = 16
NEW_TOKENS: Final = 24

_SIZES: Final[dict[str, Any]] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MLA: Final[dict[str, Any]] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def llama(seed: int = 0) -> Any:
    """Return a model whose layers all look at everything."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**_SIZES)).eval()


def mistral() -> Any:
    """Return a model whose layers all have a sliding window."""
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=24)).eval()


def gemma() -> Any:
    """Return a model of which every sixth layer looks at everything."""
    torch.manual_seed(0)
    sizes = {**_SIZES, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 24}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes)).eval()


def deepseek() -> Any:
    """Return a model whose keys and values are of two sizes."""
    torch.manual_seed(0)
    return DeepseekV3ForCausalLM(DeepseekV3Config(**{**_SIZES, **_MLA})).eval()


def gpt2() -> Any:
    """Return a model with positions learnt, not turned into keys."""
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": 128}
    return GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=2, bos_token_id=1)).eval()


MODELS: Final[dict[str, Callable[[], Any]]] = {
    "llama": llama,
    "mistral": mistral,
    "gemma": gemma,
    "deepseek": deepseek,
    "gpt2": gpt2,
}


def prompt(count: int, seed: int = 7) -> list[int]:
    """Return so many tokens, none of them special."""
    return [3 + (seed * at * at + at) % 120 for at in range(count)]


def own_prefix(model: Any, tokens: list[int]) -> Any:
    """Return the model's own cache of `tokens`, computed at once."""
    cache = DynamicCache(config=model.config)
    go_on(model, tokens, cache)
    return cache


def go_on(model: Any, tokens: list[int], cache: Any) -> torch.Tensor:
    """Compute `tokens` on top of `cache`; return their logits."""
    with torch.no_grad():
        ids = torch.tensor([tokens])
        found: torch.Tensor = model(ids, past_key_values=cache, use_cache=True).logits
    return found


def answer(model: Any, tokens: list[int], cache: Any) -> tuple[list[int], torch.Tensor]:
    """Generate greedily from `tokens`, of which `cache` has the first; return tokens and logits."""
    ids = torch.tensor([tokens])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return output.sequences[0, len(tokens) :].tolist(), torch.cat(output.logits)


def reused_answer(cache: TierdCache, tokens: list[int]) -> tuple[list[int], torch.Tensor]:
    """Generate as `answer` does, through tierd."""
    output = cache.generate(
        torch.tensor([tokens]),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return output.sequences[0, len(tokens) :].tolist(), torch.cat(output.logits)


def digest(logits: torch.Tensor) -> str:
    """Return what two equal tensors, and only these, have in common."""
    return sha256(logits.float().numpy().tobytes()).hexdigest()


def main(address: str, kind: str, dtype: str) -> None:
    model = MODELS[kind]().to(getattr(torch, dtype))
    with connect(address) as client:
        cache = TierdCache(client, model, block_tokens=BLOCK_TOKENS)
        tokens, logits = reused_answer(cache, prompt(100))
        last = cache.last
    told = {
        "tokens": tokens,
        "logits": digest(logits),
        "reused": last.reused,
        "by_tier": last.by_tier,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
