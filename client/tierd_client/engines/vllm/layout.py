"""From an engine's configuration and tensors to a `LayoutSpec`: who may share blocks with whom.

A worker works it out, from the tensors that it was given, and tells the scheduler.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch
import vllm
from vllm.lora.utils import get_adapter_absolute_path
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
    iter_layer_specs,
)

from tierd.core.errors import InvalidRequest
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.units import KiB
from tierd_client.engines.paged import PagedMemory, pages_of
from tierd_client.engines.vllm.settings import Settings

log = logging.getLogger("vllm.tierd")

_BLOCK_BYTES_MIN: Final = 512 * KiB
_BLOCK_TOKENS_MAX: Final = 256
"""Blocks are joined until they are worth a message, as long as hits do not become too coarse."""

_SAMPLES: Final = 256
_SAMPLE_BYTES: Final = 4096
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_VOLATILE: Final = ("_name_or_path", "_commit_hash", "transformers_version", "torch_dtype")


class Unsuited(Exception):
    """tierd cannot keep this engine's cache; the text says why. The engine runs without."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the engine's workers this is."""

    tensor_rank: int
    tensor_size: int
    pipeline_rank: int
    pipeline_size: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One worker's caches: their pages, the layout of their blocks, and the shard they are.

    `number` is the pipeline's stage, from 0.
    """

    memory: PagedMemory
    layout: LayoutSpec
    part: int
    publishes: bool
    number: int


def reason_against(config: Any, caches: Any) -> str:
    """Return why tierd cannot keep this engine's cache; empty if it can.

    Units: `config` is a `VllmConfig`, `caches` a `KVCacheConfig`.
    """
    parallel = config.parallel_config
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        return "context parallelism spreads a block's tokens over ranks"
    if len(caches.prefix_cacheable_group_ids) != len(caches.kv_cache_groups):
        return "a group of layers has no cache that belongs to a prefix"
    groups = caches.kv_cache_groups
    if len({group.kv_cache_spec.block_size for group in groups}) != 1:
        return "its groups of layers have blocks of different sizes"
    # Classes, not attributes: with the hybrid manager off, full attention has a window, too.
    known = (FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec)
    kinds = {type(spec) for group in groups for spec in iter_layer_specs(group.kv_cache_spec)}
    if strange := kinds.difference(known):
        return f"it keeps {', '.join(sorted(kind.__name__ for kind in strange))}"
    return ""


def stage_of(
    settings: Settings, config: Any, caches: Any, tensors: dict[str, torch.Tensor], place: Place
) -> Stage:
    """Return what a worker with these `tensors` has to offer.

    Raises:
        InvalidRequest: `block_tokens` does not fit this engine.
        Unsuited: its tensors are of no kind that blocks can be taken from.
    """
    engine_tokens = caches.kv_cache_groups[0].kv_cache_spec.block_size
    pages, groups, specs = _rows_of(caches, tensors)
    replicas = caches.kv_tp_replicas
    shards = place.tensor_size // replicas
    size = shards * sum(layer.shape[1] for layer in pages)
    windows = [spec.sliding_window for spec in specs if isinstance(spec, SlidingWindowSpec)]
    span = _span(settings, engine_tokens, size, windows)
    memory = PagedMemory(pages, groups, span)
    try:
        layout = LayoutSpec(
            model=config.model_config.model,
            groups=_layer_groups(specs, pages, groups),
            block_tokens=span * engine_tokens,
            dtype="uint8",
            shards=shards,
            revision=_revision(config.model_config),
            weights_digest=_weights_digest(config.model_config.model),
            order=_order(config, caches, tensors, place),
            tenant=settings.tenant,
            salt=settings.salt,
        )
    except InvalidRequest as error:
        raise Unsuited(str(error)) from error
    assert layout.part_bytes == memory.part_bytes, (layout.part_bytes, memory.part_bytes)
    first_replica = place.tensor_rank % replicas == 0
    part, number = place.tensor_rank // replicas, place.pipeline_rank
    return Stage(memory, layout, part, first_replica, number)


def _rows_of(
    caches: Any, tensors: dict[str, torch.Tensor]
) -> tuple[list[torch.Tensor], list[int], list[Any]]:
    """Return every layer's pages, its group, and its spec."""
    pages, groups, specs = [], [], []
    for number, group in enumerate(caches.kv_cache_groups):
        seen: set[int] = set()
        for name in group.layer_names:
            # Layers that share another's cache are in the table of names only.
            if name not in tensors or tensors[name].data_ptr() in seen:
                continue
            seen.add(tensors[name].data_ptr())
            if tensors[name].device.type not in ("cpu", "cuda"):
                raise Unsuited(f"it is on a device of type {tensors[name].device.type}")
            try:
                pages.append(pages_of(tensors[name], caches.num_blocks))
            except InvalidRequest as error:
                raise Unsuited(f"{name}: {error}") from error
            groups.append(number)
            specs.append(_spec_of(group, name))
    return pages, groups, specs


def _span(settings: Settings, engine_tokens: int, size: int, windows: list[int]) -> int:
    """Return how many engine blocks, of `size` bytes each, make a block."""
    # A block is saved in the step that completes it. Its first pages must still be there then,
    # so it reaches no further back than the smallest window.
    span_max = min((-(-window // engine_tokens) for window in windows), default=1 << 16)
    if wanted := settings.block_tokens:
        if wanted % engine_tokens or wanted // engine_tokens > span_max:
            remedy = f"a multiple of the engine's {engine_tokens}"
            if windows:
                remedy += f", at most {span_max * engine_tokens} for this model's window"
            raise InvalidRequest("kv_connector_extra_config.block_tokens", repr(wanted), remedy)
        return wanted // engine_tokens
    span_max = min(span_max, max(1, _BLOCK_TOKENS_MAX // engine_tokens))
    return max(1, min(-(-_BLOCK_BYTES_MIN // size), span_max))


def _spec_of(group: Any, name: str) -> Any:
    """Return the spec of one layer of a group."""
    spec = group.kv_cache_spec
    return getattr(spec, "kv_cache_specs", {}).get(name, spec)


def _layer_groups(
    specs: Sequence[Any], pages: Sequence[torch.Tensor], groups: Sequence[int]
) -> tuple[LayerGroup, ...]:
    """Describe neighbouring layers of one kind together, in bytes: an engine packs as it likes."""
    kinds = []
    for spec, layer, number in zip(specs, pages, groups, strict=True):
        size, odd = divmod(layer.shape[1], spec.block_size)
        if odd:
            raise Unsuited(f"a page of {layer.shape[1]} bytes has no whole bytes a token")
        window = spec.sliding_window if isinstance(spec, SlidingWindowSpec) else 0
        kinds.append((number, size, window))
    return tuple(
        LayerGroup(
            layers=len(list(layers)),
            kv_heads=1,
            head_size=size,
            planes=1,
            kind="sliding" if window else "full",
            window_tokens=window,
        )
        for (_, size, window), layers in groupby(kinds)
    )


def _revision(model: Any) -> str:
    """Name the weights: the commit they came from where it is known, or what the user asked for."""
    commit = getattr(model.hf_config, "_commit_hash", None)
    return str(commit or model.revision or "")


def _order(config: Any, caches: Any, tensors: dict[str, torch.Tensor], place: Place) -> str:
    """Return everything else that changes the bytes of a block, as text."""
    model, cache = config.model_config, config.cache_config
    speculative = config.speculative_config
    algorithm = cache.prefix_caching_hash_algo
    # Without _cbor the hashed values are pickled, which differs between versions of Python.
    pickled = "" if algorithm.endswith("_cbor") else f" python{platform.python_version()}"
    shapes = [f"{tuple(each.shape[1:])}/{each.stride()}/{each.dtype}" for each in tensors.values()]
    facts = {
        "engine": "vllm " + ".".join(vllm.__version__.split(".")[:2]),
        "config": _config_digest(model.hf_config),
        "dtype": str(model.dtype),
        "cache_dtype": cache.cache_dtype,
        "quantization": str(model.quantization),
        "layout": caches.kv_cache_layout,
        "layers": [f"{len(list(same))} x {text}" for text, same in groupby(shapes)],
        "device": _device(config, caches, tensors),
        "hash": algorithm + pickled,
        "stage": f"{place.pipeline_rank} of {place.pipeline_size}",
        "speculative": f"{speculative.method} {speculative.model}" if speculative else "",
    }
    text = json.dumps(facts, sort_keys=True)
    if len(text) > 4096:
        facts["layers"] = [hashlib.sha256(json.dumps(facts["layers"]).encode()).hexdigest()]
        text = json.dumps(facts, sort_keys=True)
    return text


def _device(config: Any, caches: Any, tensors: dict[str, torch.Tensor]) -> str:
    """Return the kind of device; of a CPU, also what its kernels make of a page."""
    kind = next(iter(tensors.values())).device.type
    if kind != "cpu":
        return kind
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    sizes = {
        (spec.block_size, spec.head_size)
        for group in caches.kv_cache_groups
        for spec in iter_layer_specs(group.kv_cache_spec)
    }
    cache_dtype = config.cache_config.cache_dtype
    packed = [
        _get_attn_isa(config.model_config.dtype, tokens, head, cache_dtype)
        for tokens, head in sorted(sizes)
    ]
    return f"cpu {torch.backends.cpu.get_cpu_capability()} {' '.join(packed)}"


def _config_digest(hf_config: Any) -> str:
    """Digest the model's configuration as it is used, overrides included."""
    given = {name: value for name, value in hf_config.to_dict().items() if name not in _VOLATILE}
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=_plain).encode()).hexdigest()[
        :32
    ]


def _plain(value: object) -> object:
    """Return a value that JSON does not know as text that is the same in every process."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


def _weights_digest(model: str) -> str:
    """Tell apart models that were at one path; empty for a name, which has a revision instead.

    Covers names and sizes of the files with weights, their first bytes (which name and place the
    tensors) and samples from all over them: not every byte, so that it takes no time.
    """
    folder = Path(model)
    files = [folder] if folder.is_file() else sorted(folder.glob("*")) if folder.is_dir() else []
    digest = hashlib.sha256()
    for path in files:
        if path.suffix not in _WEIGHTS:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as weights:
            for sample in range(_SAMPLES):
                weights.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(weights.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32] if files else ""


def adapter_digest(adapter: Any) -> bytes | None:
    """Digest a LoRA adapter: an engine's hashes have only its name and its path in them.

    None if there is no such adapter where the engine looks for it.
    """
    try:
        path = Path(get_adapter_absolute_path(adapter.lora_path))
        config = (path / "adapter_config.json").read_bytes()
    except OSError:
        return None
    digest = hashlib.sha256(_weights_digest(str(path)).encode())
    digest.update(config)
    return digest.digest()
