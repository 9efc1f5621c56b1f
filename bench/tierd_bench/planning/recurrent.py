"""The states of layers that do not attend: linear attention (gated delta nets) and Mamba 2."""

from typing import Final

from tierd_bench.planning.architecture import Layers
from tierd_bench.planning.fields import Fields

_STATE_ITEM_BYTES: Final = 4
_CONVOLUTION_ITEM_BYTES: Final = 2


def recurrent_layers(fields: Fields, kind: str, count: int) -> Layers:
    """Return `count` layers of a `kind` of `layer_types`."""
    state = _mamba_state(fields) if is_mamba(fields, kind) else _delta_state(fields)
    return Layers(count, kind="recurrent", state_bytes=state)


def is_mamba(fields: Fields, kind: str) -> bool:
    """Return whether layers of a `kind` are Mamba 2, which some files call linear attention too."""
    return kind == "mamba" or fields.has("mamba_n_heads")


def _delta_state(fields: Fields) -> int:
    keys, values = fields.whole("linear_num_key_heads"), fields.whole("linear_num_value_heads")
    key, value = fields.whole("linear_key_head_dim"), fields.whole("linear_value_head_dim")
    width = 2 * keys * key + values * value
    return _state_bytes(values * key * value, width, fields.whole("linear_conv_kernel_dim"))


def _mamba_state(fields: Fields) -> int:
    heads, size = fields.whole("mamba_n_heads"), fields.whole("mamba_d_head")
    state, groups = fields.whole("mamba_d_state"), fields.whole("mamba_n_groups")
    # These say nothing about sizes that is not said above.
    for name in ("mamba_chunk_size", "mamba_expand"):
        fields.whole(name, default=0)
    for name in ("mamba_conv_bias", "mamba_proj_bias"):
        fields.flag(name)
    width = heads * size + 2 * groups * state
    return _state_bytes(heads * size * state, width, fields.whole("mamba_d_conv"))


def _state_bytes(elements: int, convolved: int, kernel: int) -> int:
    """Return the bytes of a state and of the last inputs of the convolution before it."""
    last = max(0, kernel - 1) * convolved
    return elements * _STATE_ITEM_BYTES + last * _CONVOLUTION_ITEM_BYTES


def recurrent_params(fields: Fields, kind: str) -> int:
    """Return the weights of a layer's projections into and out of its state."""
    hidden = fields.whole("hidden_size")
    if not is_mamba(fields, kind):
        keys = fields.whole("linear_num_key_heads") * fields.whole("linear_key_head_dim")
        values = fields.whole("linear_num_value_heads") * fields.whole("linear_value_head_dim")
        return hidden * (2 * keys + 3 * values)
    inner = fields.whole("mamba_n_heads") * fields.whole("mamba_d_head")
    groups = fields.whole("mamba_n_groups") * fields.whole("mamba_d_state")
    return hidden * (3 * inner + 2 * groups + fields.whole("mamba_n_heads"))
