"""Well-known models by name, as the fields that their published `config.json` has.

Tests hold what follows from them against published sizes. `tierd_bench.cluster.models` takes the KV
and the attention of the models it shares from here.
"""

from collections.abc import Mapping
from typing import Any, Final

from tierd_bench.planning.architecture import Architecture
from tierd_bench.planning.config import architecture_of
from tierd_bench.planning.errors import PlanError


def _dense(
    layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "torch_dtype": "bfloat16",
        **more,
    }


def _experts(experts: int, active: int, size: int, **more: Any) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": active,
        "moe_intermediate_size": size,
        **more,
    }


def _latent(heads_size: int = 128, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "deepseek_v3",
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": heads_size,
        "v_head_dim": heads_size,
        **more,
    }


def _context(tokens: int) -> dict[str, int]:
    return {"max_position_embeddings": tokens}


_FP16: Final = {"torch_dtype": "float16"}
_LLAMA_3: Final = 128256
_QWEN_3: Final = 151936
_2K, _4K, _8K, _32K, _40K = (_context(1024 * k) for k in (2, 4, 8, 32, 40))
_128K, _160K, _256K = (_context(1024 * k) for k in (128, 160, 256))
_V3: Final = _latent(
    q_lora_rank=1536, first_k_dense_replace=3, n_shared_experts=1, **_experts(256, 8, 2048), **_160K
)
_SPARSE: Final = {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
_GEMMA: Final = {"model_type": "gemma3_text", "sliding_window_pattern": 6, **_128K}
_GPT_OSS: Final = {"model_type": "gpt_oss", "head_dim": 64, "sliding_window": 128, **_128K}

_HEAD_128: Final = {"head_dim": 128}

CONFIGS: Final[Mapping[str, dict[str, Any]]] = {
    "llama-7b": _dense(32, 4096, 32, 32, 11008, 32000, **_FP16, **_2K),
    "llama-13b": _dense(40, 5120, 40, 40, 13824, 32000, **_FP16, **_2K),
    "llama-33b": _dense(60, 6656, 52, 52, 17920, 32000, **_FP16, **_2K),
    "llama-65b": _dense(80, 8192, 64, 64, 22016, 32000, **_FP16, **_2K),
    "llama-2-7b": _dense(32, 4096, 32, 32, 11008, 32000, **_FP16, **_4K),
    "llama-2-13b": _dense(40, 5120, 40, 40, 13824, 32000, **_FP16, **_4K),
    "llama-2-70b": _dense(80, 8192, 64, 8, 28672, 32000, **_FP16, **_4K),
    "llama-3-8b": _dense(32, 4096, 32, 8, 14336, _LLAMA_3, **_8K),
    "llama-3-70b": _dense(80, 8192, 64, 8, 28672, _LLAMA_3, **_8K),
    "llama-3.1-8b": _dense(32, 4096, 32, 8, 14336, _LLAMA_3, **_128K),
    "llama-3.1-70b": _dense(80, 8192, 64, 8, 28672, _LLAMA_3, **_128K),
    "llama-3.1-405b": _dense(126, 16384, 128, 8, 53248, _LLAMA_3, **_128K),
    "llama-3.2-1b": _dense(16, 2048, 32, 8, 8192, _LLAMA_3, **_128K),
    "llama-3.2-3b": _dense(28, 3072, 24, 8, 8192, _LLAMA_3, **_128K),
    "llama-3.3-70b": _dense(80, 8192, 64, 8, 28672, _LLAMA_3, **_128K),
    "qwen2.5-0.5b": _dense(24, 896, 14, 2, 4864, 151936, **_32K),
    "qwen2.5-1.5b": _dense(28, 1536, 12, 2, 8960, 151936, **_32K),
    "qwen2.5-3b": _dense(36, 2048, 16, 2, 11008, 151936, **_32K),
    "qwen2.5-7b": _dense(28, 3584, 28, 4, 18944, 152064, **_32K),
    "qwen2.5-14b": _dense(48, 5120, 40, 8, 13824, 152064, **_32K),
    "qwen2.5-32b": _dense(64, 5120, 40, 8, 27648, 152064, **_32K),
    "qwen2.5-72b": _dense(80, 8192, 64, 8, 29568, 152064, **_32K),
    "qwen3-0.6b": _dense(28, 1024, 16, 8, 3072, _QWEN_3, **_HEAD_128, **_40K),
    "qwen3-1.7b": _dense(28, 2048, 16, 8, 6144, _QWEN_3, **_HEAD_128, **_40K),
    "qwen3-4b": _dense(36, 2560, 32, 8, 9728, _QWEN_3, **_HEAD_128, **_40K),
    "qwen3-8b": _dense(36, 4096, 32, 8, 12288, _QWEN_3, **_HEAD_128, **_40K),
    "qwen3-14b": _dense(40, 5120, 40, 8, 17408, _QWEN_3, **_HEAD_128, **_40K),
    "qwen3-32b": _dense(64, 5120, 64, 8, 25600, _QWEN_3, **_HEAD_128, **_40K),
    "qwen3-30b-a3b": _dense(
        48, 2048, 32, 4, 6144, _QWEN_3, **_HEAD_128, **_experts(128, 8, 768), **_40K
    ),
    "qwen3-235b-a22b": _dense(
        94, 4096, 64, 4, 12288, _QWEN_3, **_HEAD_128, **_experts(128, 8, 1536), **_40K
    ),
    "qwen3-coder-480b-a35b": _dense(
        62, 6144, 96, 8, 8192, _QWEN_3, **_HEAD_128, **_experts(160, 8, 2560), **_256K
    ),
    "qwen3-next-80b-a3b": _dense(
        48,
        2048,
        16,
        2,
        5120,
        _QWEN_3,
        head_dim=256,
        full_attention_interval=4,
        linear_num_key_heads=16,
        linear_num_value_heads=32,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_conv_kernel_dim=4,
        shared_expert_intermediate_size=512,
        **_experts(512, 10, 512),
        **_256K,
    ),
    "mistral-7b": _dense(32, 4096, 32, 8, 14336, 32768, **_32K),
    "mistral-nemo-12b": _dense(40, 5120, 32, 8, 14336, 131072, **_HEAD_128, **_128K),
    "mistral-small-24b": _dense(40, 5120, 32, 8, 32768, 131072, **_HEAD_128, **_32K),
    "mistral-large-123b": _dense(88, 12288, 96, 8, 28672, 32768, **_HEAD_128, **_128K),
    "mixtral-8x7b": _dense(32, 4096, 32, 8, 14336, 32000, **_experts(8, 2, 14336), **_32K),
    "mixtral-8x22b": _dense(
        56, 6144, 48, 8, 16384, 32768, **_experts(8, 2, 16384), **_context(65536)
    ),
    "deepseek-v2-lite": _dense(
        27,
        2048,
        16,
        16,
        10944,
        102400,
        **_latent(first_k_dense_replace=1, n_shared_experts=2, **_experts(64, 6, 1408), **_160K),
    ),
    "deepseek-v3": _dense(61, 7168, 128, 128, 18432, 129280, **_V3),
    "deepseek-r1": _dense(61, 7168, 128, 128, 18432, 129280, **_V3),
    "deepseek-v3.2": _dense(61, 7168, 128, 128, 18432, 129280, **_V3, **_SPARSE),
    "kimi-k2": _dense(
        61,
        7168,
        64,
        64,
        18432,
        163840,
        **_latent(
            q_lora_rank=1536,
            first_k_dense_replace=1,
            n_shared_experts=1,
            **_experts(384, 8, 2048),
            **_128K,
        ),
    ),
    "gpt-oss-20b": _dense(24, 2880, 64, 8, 2880, 201088, **_GPT_OSS, **_experts(32, 4, 2880)),
    "gpt-oss-120b": _dense(36, 2880, 64, 8, 2880, 201088, **_GPT_OSS, **_experts(128, 4, 2880)),
    "gemma-3-1b": _dense(
        26,
        1152,
        4,
        1,
        6912,
        262144,
        head_dim=256,
        sliding_window=512,
        **{**_GEMMA, **_32K},
    ),
    "gemma-3-4b": _dense(
        34, 2560, 8, 4, 10240, 262208, head_dim=256, sliding_window=1024, **_GEMMA
    ),
    "gemma-3-12b": _dense(
        48, 3840, 16, 8, 15360, 262208, head_dim=256, sliding_window=1024, **_GEMMA
    ),
    "gemma-3-27b": _dense(
        62, 5376, 32, 16, 21504, 262208, **_HEAD_128, sliding_window=1024, **_GEMMA
    ),
    "glm-4.5": _dense(
        92,
        5120,
        96,
        8,
        12288,
        151552,
        first_k_dense_replace=3,
        n_shared_experts=1,
        **_HEAD_128,
        **_experts(160, 8, 1536),
        **_128K,
    ),
    "glm-4.5-air": _dense(
        46,
        4096,
        96,
        8,
        10944,
        151552,
        first_k_dense_replace=1,
        n_shared_experts=1,
        **_HEAD_128,
        **_experts(128, 8, 1408),
        **_128K,
    ),
    "phi-4": _dense(40, 5120, 40, 10, 17920, 100352, **_context(16384)),
    "smollm2-135m": _dense(30, 576, 9, 3, 1536, 49152, **_8K),
    "smollm2-360m": _dense(32, 960, 15, 5, 2560, 49152, **_8K),
    "smollm2-1.7b": _dense(24, 2048, 32, 32, 8192, 49152, **_8K),
}
"""Fields by the model's name."""


def model_named(name: str) -> Architecture:
    """Return the well-known model called `name`, however it is spelled in capitals.

    Raises:
        PlanError: there is none of that name.
    """
    known = name.lower()
    if known not in CONFIGS:
        raise PlanError(
            f"no model is called {name!r}",
            f"name its config.json, or use one of: {', '.join(CONFIGS)}",
        )
    return architecture_of(known, CONFIGS[known], known)
