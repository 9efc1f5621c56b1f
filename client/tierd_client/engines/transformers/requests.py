"""What is asked of a `generate`: whether a stored prefix serves it, and for which tokens."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from tierd_client.engines.transformers.blocks import Row

_NO_MATTER: Final = frozenset(
    {
        "logits_processor",
        "logits_to_keep",
        "prefix_allowed_tokens_fn",
        "return_dict",
        "stopping_criteria",
        "streamer",
        "synced_gpus",
        "tokenizer",
        "use_model_defaults",
    }
)
"""Arguments of `generate` beside its configuration that leave keys and values as they are."""


@dataclass(frozen=True, slots=True)
class Request:
    """One `generate`. `mask` is [batch, tokens], and `padding` the columns left of each prompt;
    `bypassed` says why no stored prefix serves it, else it is empty. `repeats` sequences are
    generated for each prompt."""

    ids: torch.Tensor
    mask: torch.Tensor | None
    padding: tuple[int, ...]
    repeats: int = 1
    ends: tuple[int, ...] = ()
    bypassed: str = ""

    def answered(self, sequences: torch.Tensor) -> list[Row]:
        """Return each prompt with its answer, which ends with the first of `ends`."""
        prompted = self.ids.shape[1]
        rows = []
        for index, tokens in enumerate(sequences.tolist()):
            left = self.padding[index // self.repeats]
            answer = range(prompted, len(tokens))
            end = next((at + 1 for at in answer if tokens[at] in self.ends), len(tokens))
            rows.append(Row(tuple(tokens[left:end]), left))
        return rows


def understood(model: Any, ids: Any, mask: Any, given: Mapping[str, Any]) -> Request:
    """Return what a `generate` with these arguments asks for."""
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or not ids.numel():
        return Request(ids, mask, (), bypassed="input_ids are not [batch, tokens]")
    config, others = _configured(model, given)
    ends = _first(config, model.generation_config, "eos_token_id")
    ends = tuple(ends) if isinstance(ends, list | tuple) else (ends,)
    if mask is None:
        pad = _first(config, model.generation_config, "pad_token_id")
        # As `generate` does where no mask is given.
        mask = torch.ones_like(ids) if pad is None or pad in ends else ids.ne(pad).long()
    padding, ragged = _padding(mask, ids)
    why = ragged or _other_way(config, others)
    if torch.is_autocast_enabled(model.device.type):
        why = why or "autocast is on"
    return Request(ids, mask, padding, config.num_return_sequences or 1, ends, why)


def _configured(model: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the configuration that `generate` will follow, and the arguments beside it."""
    config = copy.deepcopy(given.get("generation_config") or model.generation_config)
    rest = {name: value for name, value in given.items() if name != "generation_config"}
    others: dict[str, Any] = config.update(**rest)
    return config, others


def _other_way(config: Any, others: Mapping[str, Any]) -> str:
    """Say why keys and values come or are used in another way than token by token; "" if not."""
    for name, value in others.items():
        if value is not None and name not in _NO_MATTER:
            return f"{name} is given"
    if config.use_cache is False:
        return "use_cache is False"
    if config.cache_implementation not in (None, "dynamic"):
        return f"cache_implementation is {config.cache_implementation}"
    mode = str(config.get_generation_mode(others.get("assistant_model")).value)
    if mode not in ("greedy_search", "sample"):
        return f"it is {mode.replace('_', ' ')}"
    for name in ("guidance_scale", "token_healing"):
        if getattr(config, name, None) not in (None, False, 1, 1.0):
            return f"{name} is given"
    return ""


def _padding(mask: Any, ids: torch.Tensor) -> tuple[tuple[int, ...], str]:
    """Return the columns left of each prompt, or why the mask is no padding on the left."""
    if mask.shape != ids.shape:
        return (), "attention_mask is of another shape than input_ids"
    seen = mask.bool()
    counts = seen.sum(dim=1)
    if not bool(counts.all()):
        return (), "a prompt is empty"
    on_left = seen.long().argmax(dim=1)
    if not torch.equal(counts + on_left, torch.full_like(counts, ids.shape[1])):
        return (), "attention_mask has holes, or padding on the right"
    return tuple(on_left.tolist()), ""


def _first(config: Any, default: Any, name: str) -> Any:
    found = getattr(config, name, None)
    return found if found is not None else getattr(default, name, None)
