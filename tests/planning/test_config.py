"""A Hugging Face `config.json` becomes an architecture, or a fault that names the field."""

import json
from pathlib import Path
from typing import Any

import pytest

from tierd_bench.planning.config import architecture_of, read_config
from tierd_bench.planning.errors import PlanError

_PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
    "torch_dtype": "float16",
    "max_position_embeddings": 512,
}


def _kinds(**more: Any) -> dict[str, int]:
    model = architecture_of("m", _PLAIN | more, "config.json")
    return {one.kind: one.count for one in model.layers}


def test_a_plain_decoder(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_PLAIN))
    for path in (folder, folder / "config.json"):
        model = read_config(path)
        assert (model.name, model.dtype, model.context_tokens) == ("tiny", "fp16", 512)
        assert model.token_bytes("fp16") == 2 * 4 * 2 * 8 * 2
        # Query, output, keys and values; three matrices of the MLP.
        assert model.linear_params == 4 * (64 * 64 * 2 + 64 * 2 * 16 + 3 * 64 * 128)
        assert model.head_params == 6400


def test_without_kv_heads_every_head_has_its_own() -> None:
    values = {name: value for name, value in _PLAIN.items() if name != "num_key_value_heads"}
    assert architecture_of("m", values, "c").token_bytes("bf16") == 2 * 4 * 64 * 2
    one = values | {"model_type": "falcon", "multi_query": True}
    assert architecture_of("m", one, "c").token_bytes("bf16") == 2 * 4 * 8 * 2


def test_the_text_part_of_a_model_that_sees() -> None:
    values = {"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": _PLAIN}
    assert architecture_of("m", values, "c").token_bytes("bf16") == 2 * 4 * 2 * 8 * 2


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({}, {"full": 4}),
        ({"sliding_window": 16}, {"sliding": 4}),
        ({"sliding_window": 16, "use_sliding_window": False}, {"full": 4}),
        ({"sliding_window": 16, "max_window_layers": 3}, {"full": 3, "sliding": 1}),
        ({"sliding_window": 16, "sliding_window_pattern": 2}, {"full": 2, "sliding": 2}),
        ({"sliding_window": 16, "model_type": "gemma2"}, {"full": 2, "sliding": 2}),
        (
            {
                "sliding_window": 16,
                "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            },
            {"full": 1, "sliding": 3},
        ),
        (
            {
                "attention_chunk_size": 16,
                "layer_types": ["chunked_attention"] * 2 + ["full_attention"] * 2,
            },
            {"full": 2, "sliding": 2},
        ),
        (
            {
                "layer_types": ["mamba"] * 3 + ["attention"],
                "mamba_n_heads": 4,
                "mamba_d_head": 8,
                "mamba_d_state": 16,
                "mamba_n_groups": 1,
                "mamba_d_conv": 4,
            },
            {"full": 1, "recurrent": 3},
        ),
    ],
)
def test_which_layers_have_windows_and_states(more: dict[str, Any], kinds: dict[str, int]) -> None:
    assert _kinds(**more) == kinds


def test_a_mamba_state_is_of_heads_and_of_the_convolution() -> None:
    model = architecture_of(
        "m",
        _PLAIN
        | {
            "layer_types": ["mamba"] * 3 + ["attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 16,
            "mamba_n_groups": 2,
            "mamba_d_conv": 4,
        },
        "c",
    )
    assert model.state_bytes == 3 * (4 * 8 * 16 * 4 + 3 * (32 + 2 * 2 * 16) * 2)
    assert any("state of each recurrent layer" in note for note in model.notes)


def test_experts_count_as_far_as_they_are_active() -> None:
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = architecture_of("m", _PLAIN | experts, "c")
    attention = 64 * 64 * 2 + 64 * 2 * 16
    assert model.linear_params == 4 * (attention + 3 * 64 * 2 * 32 + 64 * 8)
    some = {"first_k_dense_replace": 1, "n_shared_experts": 1}
    model = architecture_of("m", _PLAIN | experts | some, "c")
    sparse = 3 * 64 * 3 * 32 + 64 * 8
    assert model.linear_params == 4 * attention + 3 * sparse + 3 * 64 * 128


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_hidden_layers": None}, "no field 'num_hidden_layers'"),
        ({"num_hidden_layers": "four"}, "'num_hidden_layers' is 'four', wanted a whole number"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads' is 3, wanted a divisor of 8"),
        ({"num_attention_heads": 6}, "'num_attention_heads' is 6, wanted a divisor of hidden"),
        ({"num_attention_heads": 0}, "'num_key_value_heads'"),
        ({"hidden_size": None}, "no field 'hidden_size'"),
        ({"layer_types": ["wavelet"] * 4}, "'layer_types' is 'wavelet'"),
        ({"layer_types": ["full_attention"]}, "'layer_types' is '1 layers', wanted 4"),
        ({"layer_types": ["sliding_attention"] * 4}, "no field 'sliding_window'"),
        ({"layer_types": ["mamba"] * 4}, "no field 'mamba_n_heads'"),
        ({"torch_dtype": "int4"}, "'dtype' is 'int4'"),
        ({"mamba_d_state": 16}, "'mamba_d_state' (16) is not understood"),
        ({"num_kv_shared_layers": 2}, "'num_kv_shared_layers' (2) is not understood"),
        ({"cross_attention_layers": [3]}, "'cross_attention_layers'"),
        ({"kv_lora_rank": 512}, "no field 'qk_rope_head_dim'"),
        ({"num_experts": 8}, "no field 'num_experts_per_tok' or 'experts_per_token'"),
    ],
)
def test_a_field_that_is_not_understood_is_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        architecture_of("m", _PLAIN | more, "config.json")
    assert said in caught.value.found
    assert caught.value.found.startswith("config.json: ")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "no JSON object"), (None, "No such file")],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError, match=said):
        read_config(path)
