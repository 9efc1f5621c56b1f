"""Who a model is: what of it changes keys and values, as a few texts of a layout.

Two processes share blocks only if all of this is equal. Names and paths are not in it: the
weights say who they are.
"""

import json
from collections.abc import Hashable, Iterator
from typing import Any, Final

import torch
import transformers
import xxhash

from tierd.core.errors import InvalidRequest
from tierd.core.units import GiB, KiB

HASHED_BYTES: Final = GiB
"""All weights are hashed up to here; of larger models, an even sample of every tensor."""

_RUN_BYTES: Final = 4 * KiB
_RUNS_MIN: Final = 16

_NOT_IN_THE_MATHS: Final = frozenset(
    {
        "_name_or_path",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


def identity_of(model: Any) -> dict[str, str]:
    """Return the fields of a layout that say who `model` is.

    The version of transformers is one of them: what a cache keeps may change with it. So is the
    kind of device: other kernels round in other ways.

    Raises:
        InvalidRequest: its weights cannot be read here.
    """
    said = {
        "adapters": [list(map(str, each)) for each in _adapters(model)],
        "attention": getattr(model.config, "_attn_implementation", None),
        "config": _told(model.config.to_dict()),
        "device": model.device.type,
        "transformers": transformers.__version__,
    }
    text = json.dumps(said, sort_keys=True, default=str).encode()
    return {
        "model": type(model).__name__,
        "revision": xxhash.xxh3_128_hexdigest(text),
        "weights_digest": _weights_digest(model),
    }


def stamp_of(model: Any) -> Hashable:
    """Return a value that changes when weights were replaced, trained or given an adapter.

    Cheap enough for every request. A change made behind torch's back (through `.data`) shows
    only in the weights themselves.
    """
    weights = tuple(
        (each.data_ptr(), 0 if each.is_inference() else each._version)  # noqa: SLF001
        for each in model.parameters()
    )
    attention = getattr(model.config, "_attn_implementation", None)
    return weights, tuple(_adapters(model)), attention


def check_fixed(model: Any) -> None:
    """Look that equal tokens give equal keys and values.

    Raises:
        InvalidRequest: the model drops out at random, or a prompt was learnt into it.
    """
    if model.training:
        told = model.config.get_text_config(decoder=True).to_dict()
        rates = [rate for name, rate in told.items() if "drop" in name]
        rates += [each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)]
        if any(isinstance(rate, float) and rate > 0 for rate in rates):
            raise InvalidRequest("model", "in training mode, with dropout", "call model.eval()")
    adapters = getattr(model, "active_peft_config", None)
    if getattr(adapters, "is_prompt_learning", False):
        remedy = "use an adapter that changes weights, or the model's own `generate`"
        raise InvalidRequest("model", "one with a learnt prompt", remedy)


def tokens_max_of(config: Any) -> int:
    """Return up to which length keys depend on nothing but tokens before them; 0: any length.

    Rotary embeddings of the kinds "dynamic" and "longrope" turn the keys of a whole sequence in
    another way once it is longer than the model was first trained for.
    """
    limits = [
        rope.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for rope in _ropes(config)
        if rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope")
    ]
    return min(limits) - 1 if limits else 0


def _ropes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings of rotary embeddings: one for all layers, or one for each kind."""
    for name in ("rope_parameters", "rope_scaling"):
        given = getattr(config, name, None)
        if isinstance(given, dict):
            yield given
            yield from (each for each in given.values() if isinstance(each, dict))


def _told(config: Any) -> Any:
    """Return what of a configuration may change keys and values."""
    if isinstance(config, dict):
        return {
            str(name): _told(value)
            for name, value in config.items()
            if name not in _NOT_IN_THE_MATHS
        }
    return [_told(each) for each in config] if isinstance(config, list | tuple) else config


def _adapters(model: Any) -> Iterator[tuple[Hashable, ...]]:
    """Yield the state of each layer that has adapters (PEFT): on or off, which, merged or not."""
    for name, module in model.named_modules():
        off = getattr(module, "disable_adapters", None)
        if isinstance(off, bool):
            active = tuple(getattr(module, "active_adapters", ()))
            scaling = tuple(sorted(dict(getattr(module, "scaling", {})).items()))
            yield name, off, active, tuple(getattr(module, "merged_adapters", ())), scaling


def _weights_digest(model: Any) -> str:
    tensors = {
        name: each for name, each in model.state_dict().items() if isinstance(each, torch.Tensor)
    }
    total = sum(each.numel() * each.element_size() for each in tensors.values())
    share = min(1.0, HASHED_BYTES / max(1, total))
    digest = xxhash.xxh3_128()
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in sorted(tensors.items()):
        place = tensor.data_ptr(), tuple(tensor.shape)
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        if place in seen:  # Tied weights are hashed once.
            digest.update(seen[place].encode())
            continue
        if tensor.numel():
            seen[place] = name
            digest.update(_sample(name, tensor, share).cpu().numpy().data)
    return digest.hexdigest()


def _sample(name: str, tensor: torch.Tensor, share: float) -> torch.Tensor:
    """Return about that share of a tensor's bytes, in runs from its first to its last."""
    try:
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise _unreadable(name, type(tensor).__name__) from error
    if tensor.device.type == "meta":
        raise _unreadable(name, "on the meta device")
    runs = max(_RUNS_MIN, int(flat.numel() * share) // _RUN_BYTES)
    if share >= 1 or runs * _RUN_BYTES >= flat.numel():
        return flat
    step = (flat.numel() - _RUN_BYTES) // (runs - 1)
    return flat.as_strided((runs, _RUN_BYTES), (step, 1)).contiguous()


def _unreadable(name: str, found: str) -> InvalidRequest:
    remedy = "load the model without offloading: its weights have to be read to be told apart"
    return InvalidRequest(f"model.{name}", found, remedy)
