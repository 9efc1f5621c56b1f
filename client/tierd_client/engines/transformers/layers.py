"""A model's own cache, opened up: what its layers keep, and how to fill one and read it.

The model sees the classes of transformers, with the same keys and values in the same memory
layout as if it had computed them. One thing differs: a layer with a sliding window also
remembers what has left the window, until it is published, since a block has the keys and values
of all layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers

from tierd.core.errors import InvalidRequest
from tierd_client.tensors import LayerShape

try:
    from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer
except ImportError as error:
    raise InvalidRequest(
        "transformers", transformers.__version__, "install 4.57 or later"
    ) from error

_PROBE_TOKENS: Final = 3


class RememberingLayer(DynamicSlidingWindowLayer):
    """A layer with a sliding window that also keeps what it was given, from `start` on.

    `remembered` are pairs of keys and values [batch, heads, tokens, size], in order.
    """

    def __init__(self, sliding_window: int) -> None:
        super().__init__(sliding_window=sliding_window)
        self.start = 0
        self.remembered: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Take the next tokens' keys and values in; return those to attend to."""
        if key_states.shape[-2]:
            self.remembered.append((key_states, value_states))
        return super().update(key_states, value_states, *args, **kwargs)

    def begin(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        """Be as after `tokens` tokens, of which these are the last."""
        self.keys, self.values = keys, values
        self.cumulative_length = tokens
        self.forget()

    def everything(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is remembered, in one piece."""
        if len(self.remembered) != 1:
            pairs = self.remembered or [(self.keys[..., :0, :], self.values[..., :0, :])]
            keys, values = zip(*pairs, strict=True)
            self.remembered = [(torch.cat(keys, dim=-2), torch.cat(values, dim=-2))]
        return self.remembered[0]

    def forget(self) -> None:
        """Remember only what comes from now on."""
        self.remembered = []
        self.start = self.cumulative_length

    def forget_before(self, token: int) -> None:
        """Drop what is remembered of earlier tokens: it was published."""
        count = token - self.start
        if count > 0:
            keys, values = self.everything()
            self.remembered = [(keys[..., count:, :].clone(), values[..., count:, :].clone())]
            self.start = token

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens."""
        super().crop(tokens_to_remove)
        if not self.remembered:
            self.forget()
            return
        keys, values = self.everything()
        left = max(0, self.cumulative_length - self.start)
        self.remembered = [(keys[..., :left, :], values[..., :left, :])]
        self.start = min(self.start, self.cumulative_length)

    def reset(self) -> None:
        """Be empty."""
        super().reset()
        self.forget()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Put other sequences in these rows."""
        super().reorder_cache(beam_idx)
        self.forget()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        super().batch_repeat_interleave(repeats)
        self.forget()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these sequences only."""
        super().batch_select_indices(indices)
        self.forget()


@dataclass(frozen=True, slots=True)
class KeptLayers:
    """What a model's cache keeps: `indices` are its layers that keep anything."""

    indices: tuple[int, ...]
    shapes: tuple[LayerShape, ...]
    dtype: torch.dtype
    devices: tuple[torch.device, ...]


def new_cache(config: Any) -> Any:
    """Return an empty cache of a model, as its `generate` would make it."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            cache.layers[index] = RememberingLayer(layer.sliding_window)
    return cache


def kept_layers(model: Any) -> KeptLayers:
    """Return what the cache of `model` keeps, found by computing a few tokens.

    Raises:
        InvalidRequest: not only keys and values of each token, or not in a `DynamicCache`.
    """
    cache = _probed(model)
    kept = [
        (index, layer)
        for index, layer in enumerate(cache.layers)
        if isinstance(getattr(layer, "keys", None), torch.Tensor)
    ]
    dtypes = {each.dtype for _, layer in kept for each in (layer.keys, layer.values)}
    if len(dtypes) != 1:
        remedy = "tierd keeps one dtype, and needs a model that uses its DynamicCache"
        raise InvalidRequest("model", f"with a cache of dtypes {sorted(map(str, dtypes))}", remedy)
    return KeptLayers(
        tuple(index for index, _ in kept),
        tuple(_shape(index, layer) for index, layer in kept),
        dtypes.pop(),
        tuple(layer.keys.device for _, layer in kept),
    )


def check_cache(cache: Any, kept: KeptLayers, batch: int) -> None:
    """Look that `cache` is one of this model's, with so many sequences.

    Raises:
        InvalidRequest: it is not.
    """
    remedy = "give the cache that `fetch` returned, or a DynamicCache of this model"
    if not isinstance(cache, DynamicCache):
        raise InvalidRequest("past_key_values", type(cache).__name__, remedy)
    for index, shape in zip(kept.indices, kept.shapes, strict=True):
        layer = cache.layers[index] if index < len(cache.layers) else None
        keys = getattr(layer, "keys", None)
        if keys is None or not keys.numel():
            continue
        found = keys.shape[0], keys.shape[1], keys.shape[3], keys.dtype
        wanted = batch, shape.key_heads, shape.key_size, kept.dtype
        if found != wanted:
            raise InvalidRequest(f"past_key_values.layers[{index}]", str(found), f"{wanted}")


def fill(cache: Any, kept: KeptLayers, filling: Sequence[Any], tokens: int) -> None:
    """Make an empty cache one of `tokens` tokens; `filling` has each layer's (keys, values).

    Shapes: [batch, heads, tokens, size]; of a layer with a window, only what `window_start` says.
    """
    for index, (keys, values) in zip(kept.indices, filling, strict=True):
        layer = cache.layers[index]
        layer.update(keys[..., :0, :], values[..., :0, :])
        if isinstance(layer, RememberingLayer):
            layer.begin(keys, values, tokens)
        else:
            layer.keys, layer.values = keys, values


def window_start(shape: LayerShape, tokens: int) -> int:
    """Return the first of `tokens` tokens that a layer's own cache still keeps."""
    return max(0, tokens - shape.window_tokens + 1) if shape.window_tokens else 0


def read(layer: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the keys and values that a layer still has, and of which token the first are."""
    if isinstance(layer, RememberingLayer):
        return *layer.everything(), layer.start
    return layer.keys, layer.values, layer.get_seq_length() - layer.keys.shape[-2]


def _probed(model: Any) -> Any:
    """Return a cache of a few tokens that `model` filled."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise _other_cache(type(model).__name__, "an encoder's output is no prefix of tokens")
    try:
        cache = DynamicCache(config=config.get_text_config(decoder=True))
    except (KeyError, TypeError, AttributeError) as error:
        raise _other_cache(type(model).__name__, f"it has no DynamicCache: {error}") from error
    known = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
    for index, layer in enumerate(cache.layers):
        if type(layer).__name__ not in known:
            found = f"layer {index} is a {type(layer).__name__}"
            raise _other_cache(type(model).__name__, found)
    ids = torch.ones((1, _PROBE_TOKENS), dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            model(input_ids=ids, past_key_values=cache, use_cache=True)
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise _other_cache(type(model).__name__, f"it does not take one: {error}") from error
    return cache


def _shape(index: int, layer: Any) -> LayerShape:
    keys, values = layer.keys, layer.values
    window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else 0
    tokens = min(_PROBE_TOKENS, window - 1) if window else _PROBE_TOKENS
    fits = [each.dim() == 4 and each.shape[::2] == (1, tokens) for each in (keys, values)]
    if not all(fits):
        found = f"keys {tuple(keys.shape)}, values {tuple(values.shape)}"
        raise _other_cache(f"layer {index}", found)
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[1], values.shape[3], window)


def _other_cache(name: str, cause: str) -> InvalidRequest:
    remedy = "use its own `generate`: tierd keeps caches that have keys and values of every token"
    return InvalidRequest("model", f"{name}, whose cache is another kind ({cause})", remedy)
