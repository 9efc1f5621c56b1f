"""Chunks of vLLM's offloading as blocks: settings, layout, and which blocks make a chain."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Final

import torch
import vllm
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import ReqContext
from vllm.v1.kv_offload.file_mapper import FileMapper

from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey, adopt_keys
from tierd.core.layouts import TEXT_MAX, LayerGroup, LayoutSpec
from tierd_client.buffers import runs

Key = bytes
"""vLLM's `OffloadKey`: the hash of a chunk and of all before it, and its group."""

_POSITIONS: Final = "_offload_key_positions"
"""Where a request of vLLM notes its keys, with the token that each ends at."""
_BLOCKS: Final = ("auto", "chained", "alone")
_LOCALITIES: Final = ("", "LOCAL", "REMOTE")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an entry of `secondary_tiers` may have beside `type` and `module_path`.

    `address` is the daemon's; empty is the default socket. `revision` names the weights where
    the model's name does not, `tenant` and `salt` keep apart what must not be shared. `blocks`:
    "chained" gives the daemon each block with those before it, "alone" gives it none; see
    `TierdTier`. "auto" chains where the model has one group of layers; where all of these keep a
    state instead of keys and values, write "alone". `locality` is what requests may select the
    tier by; empty is told from the address. Units: `deadline_s` seconds, for a load or a
    store from when vLLM asks for it, its wait for others included.
    """

    address: str = ""
    revision: str = ""
    tenant: str = ""
    salt: str = ""
    blocks: str = "auto"
    locality: str = ""
    deadline_s: float = 5.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """Return the settings of one entry.

        Raises:
            InvalidRequest: there is no such setting, or it cannot have this value.
        """
        known = {field.name: field.default for field in fields(cls)}
        for name, value in given.items():
            _require(name in known, name, value, f"use only {', '.join(known)}")
            if isinstance(known[name], str):
                _require(isinstance(value, str), name, value, "give a text")
        settings = cls(**given)
        blocks, locality = settings.blocks, settings.locality
        deadline_s: object = settings.deadline_s  # As it was given.
        _require(blocks in _BLOCKS, "blocks", blocks, f"one of {', '.join(_BLOCKS)}")
        _require(locality in _LOCALITIES, "locality", locality, "LOCAL or REMOTE, or leave it out")
        is_time = isinstance(deadline_s, int | float) and deadline_s > 0
        _require(is_time, "deadline_s", deadline_s, "more than 0 seconds")
        return settings


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring blocks of a chain: those from `first` to its end, one for each of `keys`."""

    chain: Sequence[BlockKey]
    first: int
    keys: Sequence[Key]


class Chained:
    """A request's blocks as one chain: for models with one group of layers."""

    needs_all = True

    def __init__(self, root: BlockKey, chunk_tokens: int) -> None:
        self._root = root
        self._chunk_tokens = chunk_tokens

    def runs(self, keys: Collection[Key], context: Any) -> Iterator[Run]:
        """Yield the runs of `keys` in their request's chain, the first ones first."""
        chain = self._chain(context)
        places = {key: place for place, key in enumerate(chain)}
        wanted = sorted(places[key] for key in keys if key in places)
        adopted = adopt_keys(self._root, chain[: wanted[-1] + 1]) if wanted else []
        for first, count in runs(wanted):
            yield Run(adopted[: first + count], first, chain[first : first + count])

    def _chain(self, context: Any) -> list[Key]:
        """Return the request's keys from its first token on.

        The scheduler may note more while a thread is here: the list is made in one go.
        """
        noted = list(getattr(context, _POSITIONS).items())
        whole = sorted((end, key) for key, end in noted if end % self._chunk_tokens == 0)
        chain = []
        for place, (end, key) in enumerate(whole, start=1):
            if end != place * self._chunk_tokens:
                break
            chain.append(key)
        return chain


class Alone:
    """Each block as a chain of its own."""

    needs_all = False

    def __init__(self, root: BlockKey) -> None:
        self._root = root

    def runs(self, keys: Collection[Key], context: Any) -> Iterator[Run]:
        """Yield a run for each of `keys`, the last ones of the request first."""
        ends = {key: context.get_offload_key_position(key) or 0 for key in keys}
        for key in sorted(ends, key=lambda key: (-ends[key], key)):
            yield Run(adopt_keys(self._root, [key]), 0, [key])


def chains_of(spec: Any, root: BlockKey, settings: Settings) -> Chained | Alone:
    """Return how keys become chains, for an `OffloadingSpec` of vLLM."""
    return Chained(root, _chunk_tokens(spec)) if _is_chained(spec, settings) else Alone(root)


def layout_of(spec: Any, row_bytes: int, settings: Settings) -> LayoutSpec:
    """Return the layout of the rows that an `OffloadingSpec` of vLLM makes.

    What is in a row is vLLM's affair: here it is one lump. `order` has all that vLLM's file tier
    tells apart, and what it does not: an engine on CPUs arranges keys and values for their
    instruction set.
    """
    files = FileMapper.from_offloading_spec(
        root_dir="",
        offloading_spec=spec,
        blocks_per_file=spec.blocks_per_chunk,
        parallel_agnostic=True,
    )
    on_cpu = current_platform.device_type == "cpu"
    told = {
        **files.get_run_config(),
        "rank": files.rank,
        "layout": spec.config.kv_cache_layout,
        "vllm": vllm.__version__,
        "platform": current_platform.device_type,
        "instructions": torch.backends.cpu.get_cpu_capability() if on_cpu else "",
        "chained": _is_chained(spec, settings),
    }
    order = json.dumps(told, sort_keys=True)
    if len(order) > TEXT_MAX:
        order = blake2b(order.encode()).hexdigest()
    return LayoutSpec(
        model=spec.config.model.name,
        groups=(LayerGroup(layers=1, kind="recurrent", state_bytes=row_bytes),),
        block_tokens=_chunk_tokens(spec),
        dtype="uint8",
        revision=settings.revision,
        order=order,
        tenant=settings.tenant,
        salt=settings.salt,
    )


def _is_chained(spec: Any, settings: Settings) -> bool:
    if settings.blocks == "auto":
        notes = any(field.name == _POSITIONS for field in fields(ReqContext))
        return notes and len(spec.config.groups) == 1
    return settings.blocks == "chained"


def _chunk_tokens(spec: Any) -> int:
    return int(spec.tokens_per_block[0] * spec.blocks_per_chunk)


def _require(holds: bool, name: str, value: object, remedy: str) -> None:  # noqa: FBT001
    if not holds:
        raise InvalidRequest(f"secondary_tiers[].{name}", repr(value), remedy)
