"""KV bytes and FLOPs that follow from an architecture, against published figures."""

import pytest

from tierd.core.layouts import LayoutSpec
from tierd.core.units import PAGE_BYTES, KiB, round_up
from tierd_bench.cluster.models import MODELS
from tierd_bench.planning.architecture import Architecture, Layers
from tierd_bench.planning.config import check_ranks
from tierd_bench.planning.errors import PlanError
from tierd_bench.planning.models import CONFIGS, model_named


@pytest.mark.parametrize(
    ("name", "dtype", "token_bytes"),
    [
        # Published: 0.5 MiB, 320 KiB, 128 KiB; 70 KB of DeepSeek-V3 (its paper's 576 elements).
        ("llama-7b", "fp16", 512 * KiB),
        ("llama-13b", "fp16", 800 * KiB),
        ("llama-2-70b", "fp16", 320 * KiB),
        ("llama-3-8b", "bf16", 128 * KiB),
        ("llama-3-8b", "fp8", 64 * KiB),
        ("llama-3-70b", "bf16", 320 * KiB),
        ("llama-3.1-405b", "bf16", 516_096),
        ("qwen2.5-72b", "bf16", 327_680),
        ("qwen2.5-32b", "bf16", 256 * KiB),
        ("qwen3-235b-a22b", "bf16", 188 * KiB),
        ("mixtral-8x7b", "bf16", 128 * KiB),
        ("deepseek-v3", "bf16", 70_272),
        # DeepSeek-V3.2 in FP8, latent and indexer key: 61 * (656 + 132) bytes.
        ("deepseek-v3.2", "fp8", 48_068),
        ("gpt-oss-120b", "bf16", 72 * KiB),
        ("gemma-3-27b", "bf16", 496 * KiB),
        ("smollm2-135m", "bf16", 23_040),
        ("qwen3-next-80b-a3b", "bf16", 24 * KiB),
    ],
)
def test_kv_of_a_token_is_what_was_published(name: str, dtype: str, token_bytes: int) -> None:
    assert model_named(name).token_bytes(dtype) == token_bytes


@pytest.mark.parametrize(
    ("name", "embeddings", "billions"),
    [
        # Parameters as the models' makers give them; of experts the active ones.
        ("llama-7b", 2, 6.74),
        ("llama-2-70b", 2, 68.98),
        ("llama-3-8b", 2, 8.03),
        ("llama-3.1-405b", 2, 405.85),
        ("qwen2.5-7b", 2, 7.62),
        ("qwen2.5-72b", 2, 72.7),
        ("qwen3-30b-a3b", 2, 3.3),
        ("qwen3-235b-a22b", 2, 22),
        ("mixtral-8x7b", 2, 12.9),
        ("deepseek-v3", 2, 37),
        ("kimi-k2", 2, 32),
        ("gpt-oss-120b", 1, 5.1),
        ("gpt-oss-20b", 1, 3.6),
        ("glm-4.5", 1, 32),
        ("gemma-3-27b", 1, 27),
        ("smollm2-135m", 1, 0.135),
    ],
)
def test_active_weights_are_what_was_published(name: str, embeddings: int, billions: float) -> None:
    model = model_named(name)
    active = model.linear_params + embeddings * model.head_params
    assert active / 1e9 == pytest.approx(billions, rel=0.03)


def test_every_model_of_the_table_makes_sense() -> None:
    for name in CONFIGS:
        model = model_named(name.upper())
        assert model.context_tokens >= 2048
        assert 0 < model.token_bytes("fp8") < model.token_bytes("bf16") <= 3 * 2**20
        assert model.linear_params > 1e8


def test_windows_and_states_are_told_apart() -> None:
    gemma = model_named("gemma-3-27b")
    layers = {one.kind: one.count for one in gemma.layers}
    assert layers == {"full": 10, "sliding": 52}
    assert gemma.windowed_bytes("bf16") == 52 * 2 * 16 * 128 * 2
    hybrid = model_named("qwen3-next-80b-a3b")
    assert {one.kind: one.count for one in hybrid.layers} == {"full": 12, "recurrent": 36}
    # 32 heads of 128 x 128 in float32, and three inputs of the convolution in bf16.
    assert hybrid.state_bytes == 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)


@pytest.mark.parametrize(
    ("name", "ranks", "rank_bytes"),
    [
        ("llama-3-70b", 1, 320 * KiB),
        ("llama-3-70b", 8, 40 * KiB),
        # Eight KV heads over sixteen ranks: each is kept twice.
        ("llama-3-70b", 16, 40 * KiB),
        ("qwen2.5-7b", 4, 14 * KiB),
        ("qwen2.5-7b", 8, 14 * KiB),
        # A latent has no heads to deal out.
        ("deepseek-v3", 8, 70_272),
        ("gemma-3-1b", 2, 26 * KiB),
    ],
)
def test_heads_are_dealt_out_to_ranks_and_replicated_beyond(
    name: str, ranks: int, rank_bytes: int
) -> None:
    model = model_named(name)
    check_ranks(model, ranks)
    assert model.rank_token_bytes("bf16", ranks) == rank_bytes
    assert model.token_bytes("bf16", ranks) == ranks * rank_bytes


def test_ranks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match="8 KV heads do not go into 3 ranks") as caught:
        check_ranks(model_named("llama-3-8b"), 3)
    assert "divides" in caught.value.remedy


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_block_is_as_large_as_tierd_makes_it(ranks: int) -> None:
    model = model_named("smollm2-1.7b")
    layout = model.layout(16, "bf16", ranks)
    part = round_up(16 * model.rank_token_bytes("bf16", ranks), PAGE_BYTES)
    assert layout.block_bytes == ranks * part
    hybrid = model_named("qwen3-next-80b-a3b").layout(64, "bf16", ranks)
    least = 64 * 24 * KiB + 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    assert least <= hybrid.block_bytes <= least + ranks * PAGE_BYTES


def test_a_layout_of_a_real_engine_is_as_large() -> None:
    """The block that an engine would register for Llama-3-8B, said in tierd's own words."""
    from tierd.core.layouts import LayerGroup

    theirs = LayoutSpec("m", (LayerGroup(layers=32, kv_heads=8, head_size=128),), 64, "bfloat16")
    assert model_named("llama-3-8b").layout(64, "bf16", 1).block_bytes == theirs.block_bytes


@pytest.mark.parametrize(("new", "cached"), [(1, 0), (40, 0), (5, 90), (30, 10), (64, 500)])
def test_attention_is_counted_by_pairs(new: int, cached: int) -> None:
    """Against a sum over pairs; the integral differs from it by half a pair a token."""
    windowed = Layers(3, 1, 8, "sliding", window_tokens=32, attention_width=10.0, span=32)
    full = Layers(2, 1, 8, attention_width=10.0, index_width=2.0)
    model = Architecture("m", (windowed, full), linear_params=100.0, head_params=7.0)
    before = [cached + place + 0.5 for place in range(new)]
    attention = 3 * 4 * 10 * sum(min(32, seen) for seen in before)
    attention += 2 * (4 * 10 + 2 * 2) * sum(before)
    wanted = 2 * 100 * new + 2 * 7 + attention
    assert model.prefill_flops(new, cached) == pytest.approx(wanted, rel=0.01)


def test_computing_a_prompt_in_two_steps_takes_as_much_attention() -> None:
    model = model_named("gpt-oss-120b")
    once = model.prefill_flops(5000)
    twice = model.prefill_flops(3000) + model.prefill_flops(2000, cached=3000)
    assert twice - 2 * model.head_params == pytest.approx(once, rel=1e-12)
    assert model.prefill_flops(0, cached=3000) == 0


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PlanError, match="no model is called 'gpt-9'") as caught:
        model_named("gpt-9")
    assert "llama-3-8b" in caught.value.remedy


def test_the_cluster_simulates_the_same_models() -> None:
    """It has DeepSeek-V3.2 by the figures of its paper, which have to agree with these."""
    theirs, ours = MODELS["ds-660b"], model_named("deepseek-v3.2")
    assert theirs.kv_bytes_per_token == ours.token_bytes("fp8")
    (layers,) = ours.layers
    attention = layers.count * layers.attention_flops(100, 5000)
    assert theirs.attention_flops(100, 5050) == pytest.approx(attention)
