"""Chunks of vLLM's offloading as blocks: settings, layout, and how they are found and moved."""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from itertools import compress
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
from tierd_client.engines.link import Link
from tierd_client.engines.singles import Singles, extent_of
from tierd_client.namespace import Namespace

Key = bytes
"""vLLM's `OffloadKey`: the hash of a chunk and of all before it, and its group."""

Rows = Mapping[Key, memoryview]
"""Where chunks lie in vLLM's memory of the CPU, each in one piece."""

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
class _Run:
    """Neighbouring blocks of a chain: those from `first` to its end, one for each of `keys`."""

    chain: Sequence[BlockKey]
    first: int
    keys: Sequence[Key]


class Chained:
    """A request's blocks as one chain: for models with one group of layers.

    Nothing is begun after `until_s`. Concurrency: any thread.
    """

    needs_all = True

    def __init__(self, link: Link, layout: LayoutSpec) -> None:
        self._link = link
        self._layout = layout

    def find(self, keys: Collection[Key], context: Any, until_s: float) -> set[Key]:
        """Return those of `keys` that are held."""
        found: set[Key] = set()
        for kv, run in self._runs(keys, context, until_s):
            held = kv.match(run.chain).blocks
            found.update(run.keys[: max(0, held - run.first)])
            if held < len(run.chain):
                break  # Nothing is found behind what is missing.
        return found

    def load(self, rows: Rows, context: Any, until_s: float) -> list[Key]:
        """Fill rows; return the keys of those that were."""
        here: list[Key] = []
        for kv, run in self._runs(rows, context, until_s):
            into = [rows[key] for key in run.keys]
            left_s = max(0.0, until_s - time.monotonic())
            fetched = kv.fetch(run.chain, into, first=run.first, deadline_s=left_s)
            here += run.keys[: fetched.blocks]
        return here

    def store(self, rows: Rows, context: Any, until_s: float) -> list[Key]:
        """Publish rows; return the keys of those that are held, by whomever."""
        kept: list[Key] = []
        for kv, run in self._runs(rows, context, until_s):
            if run.first and kv.match(run.chain).blocks < run.first:
                break  # What comes before is not held: nothing can hang on it.
            source = [rows[key] for key in run.keys]
            published = kv.publish(run.chain, source, first=run.first)
            kept += run.keys[: published.blocks + published.held]
        return kept

    def _runs(
        self, keys: Collection[Key], context: Any, until_s: float
    ) -> Iterator[tuple[Namespace, _Run]]:
        """Yield the runs of `keys` in their request's chain, the first ones first."""
        kv = self._link.open(self._layout)
        if kv is None:
            return
        chain = self._chain(context)
        places = {key: place for place, key in enumerate(chain)}
        wanted = sorted(places[key] for key in keys if key in places)
        adopted = adopt_keys(self._layout.root, chain[: wanted[-1] + 1]) if wanted else []
        for first, count in runs(wanted):
            if time.monotonic() >= until_s:
                return
            yield kv, _Run(adopted[: first + count], first, chain[first : first + count])

    def _chain(self, context: Any) -> list[Key]:
        """Return the request's keys from its first token on.

        The scheduler may note more while a thread is here: the list is made in one go.
        """
        noted = list(getattr(context, _POSITIONS).items())
        size = self._layout.block_tokens
        whole = sorted((end, key) for key, end in noted if end % size == 0)
        chain = []
        for place, (end, key) in enumerate(whole, start=1):
            if end != place * size:
                break
            chain.append(key)
        return chain


class Alone:
    """Each block as a chain of its own, many in one message; calls as of `Chained`."""

    needs_all = False

    def __init__(self, link: Link, layout: LayoutSpec) -> None:
        self._singles = Singles(link, layout)

    def find(self, keys: Collection[Key], context: Any, until_s: float) -> set[Key]:
        """Return those of `keys` that are held."""
        asked = _in_order(keys, context)
        return set(compress(asked, self._singles.held(asked)))

    def load(self, rows: Rows, context: Any, until_s: float) -> list[Key]:
        """Fill rows; return the keys of those that were."""
        asked = _in_order(rows, context)
        into = [[extent_of(rows[key])] for key in asked]
        left_s = until_s - time.monotonic()
        return list(compress(asked, self._singles.fetch(asked, into, left_s)))

    def store(self, rows: Rows, context: Any, until_s: float) -> list[Key]:
        """Publish rows; return the keys of those that are held, by whomever."""
        if time.monotonic() >= until_s:
            return []
        offered = _in_order(rows, context)
        published = self._singles.publish(offered, [[extent_of(rows[key])] for key in offered])
        return [key for key, end in zip(offered, published, strict=True) if not end.declined]


def blocks_of(spec: Any, link: Link, layout: LayoutSpec, settings: Settings) -> Chained | Alone:
    """Return how chunks are blocks, for an `OffloadingSpec` of vLLM."""
    return Chained(link, layout) if _is_chained(spec, settings) else Alone(link, layout)


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


def _in_order(keys: Collection[Key], context: Any) -> list[Key]:
    """Return keys of a request as their chunks follow one another: the last are evicted first."""
    ends = {key: context.get_offload_key_position(key) or 0 for key in keys}
    return sorted(ends, key=lambda key: (ends[key], key))


def _require(holds: bool, name: str, value: object, remedy: str) -> None:  # noqa: FBT001
    if not holds:
        raise InvalidRequest(f"secondary_tiers[].{name}", repr(value), remedy)
