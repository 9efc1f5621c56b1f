"""Between a model's cache and the blocks of a namespace: one gather, or one scatter, each way.

A row of a cache is one sequence, with `left` columns of padding before it: its token t is in
column t + left.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch

from tierd.core.errors import InvalidRequest
from tierd.core.keys import BlockKey
from tierd_client.engines.transformers.layers import KeptLayers, fill, new_cache, read, window_start
from tierd_client.namespace import Namespace
from tierd_client.renewal import Held
from tierd_client.results import Published
from tierd_client.tensors import BlockTensors, gather_tokens, scatter_tokens

_STAGING_BYTES_MAX: Final = 256 << 20

_ANSWER_S: Final = 1.0
"""How long to wait for a daemon that may have stopped."""

_FETCH_S: Final = 5.0
_ROUNDS: Final = 3
"""How often to try for a shorter prefix where blocks did not come."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of a cache."""

    tokens: Sequence[int]
    left: int = 0


@dataclass(frozen=True, slots=True)
class Filled:
    """A cache of the first `columns` columns of all rows. `by_tier` says where `tokens` were;
    `answers`, whether the daemon speaks, or is away: else it hangs."""

    cache: Any
    columns: int
    tokens: int
    by_tier: dict[str, int]
    answers: bool = True


class CacheBlocks:
    """A model's cache as blocks of `kv`.

    Blocks go through staging memory, on the model's GPU where tierd reaches it: some 256 MiB at
    most, kept from call to call. Concurrency: any method from any thread.
    """

    def __init__(self, kv: Namespace, kept: KeptLayers, config: Any) -> None:
        self.kv = kv
        self.kept = kept
        self._config = config
        self._tokens = kv.layout.block_tokens
        self._blocks = BlockTensors(kept.shapes, self._tokens, kept.dtype)
        self._staged_max = max(1, _STAGING_BYTES_MAX // kv.layout.part_bytes)
        self._spare: list[torch.Tensor] = []
        on_one_gpu = len(set(kept.devices)) == 1 and kept.devices[0].type == "cuda"
        self._device = kept.devices[0] if on_one_gpu else torch.device("cpu")

    def filled(self, rows: Sequence[Row]) -> Filled:
        """Return a cache of as many columns as are stored of every row; never the last one.

        A row that has only padding there needs nothing stored.
        """
        chains = [self.kv.keys(row.tokens[:-1]) for row in rows]
        with ExitStack() as holds:
            held = []
            for chain in chains:
                holding = self._hold(chain)
                if holding is None:
                    return Filled(new_cache(self._config), 0, 0, {}, answers=False)
                held.append(holds.enter_context(holding).blocks)
            for _ in range(_ROUNDS):
                filled, held = self._filled_up_to(held, rows, chains)
                if filled is not None:
                    return filled
        return Filled(new_cache(self._config), 0, 0, {})

    def publish(self, row: Row, cache: Any, index: int = 0) -> Published:
        """Offer the whole blocks of `row`, whose keys and values are row `index` of `cache`."""
        count = min(len(row.tokens), cache.get_seq_length() - row.left)
        keys = self.kv.keys(row.tokens[: max(0, count)])
        if not keys:
            return Published()
        holding = self._hold(keys)
        if holding is None:
            return Published(declined=len(keys))
        held = holding.blocks
        holding.release()
        if held == len(keys):
            return Published(0, held)
        layers = [read(cache.layers[each]) for each in self.kept.indices]
        first = max(-(-max(0, start - row.left) // self._tokens) for *_, start in layers)
        if held < first:  # Their parents are in no cache any more: nothing could hang on them.
            return Published(0, held, len(keys) - held)
        views = [self._of_row(layer, index, row.left) for layer in layers]
        sealed = declined = 0
        for start in range(held, len(keys), self._staged_max):
            done = self._offer(keys[: start + self._staged_max], start, views)
            sealed, declined = sealed + done.blocks, declined + done.declined
            if done.declined:
                declined += max(0, len(keys) - start - self._staged_max)
                break
        return Published(sealed, len(keys) - sealed - declined, declined)

    # ---- how

    def _hold(self, keys: list[BlockKey]) -> Held | None:
        """Hold what is stored of `keys`; None if the daemon does not say in time."""
        until_s = time.monotonic() + _ANSWER_S
        held = self.kv.hold(keys, _ANSWER_S)
        return held if held.blocks or time.monotonic() < until_s else None

    def _filled_up_to(
        self, held: Sequence[int], rows: Sequence[Row], chains: Sequence[list[BlockKey]]
    ) -> tuple[Filled | None, list[int]]:
        """Return the cache if all of `held` came as far as it is needed, and what came."""
        columns = min(
            row.left + min(blocks * self._tokens, len(row.tokens) - 1)
            for row, blocks in zip(rows, held, strict=True)
        )
        wanted = [-(-max(0, columns - row.left) // self._tokens) for row in rows]
        room = self._room(len(rows), columns)
        by_tier: dict[str, int] = {}
        came = []
        for index, (row, chain) in enumerate(zip(rows, chains, strict=True)):
            # What is missing is asked for, too: the daemon is to know what was not there.
            keys = chain if wanted[index] == held[index] else chain[: wanted[index]]
            views = [self._of_row(layer, index, row.left) for layer in room]
            came.append(self._bring(keys, wanted[index], views, by_tier))
        if came != wanted:
            return None, came
        cache = new_cache(self._config)
        tokens = sum(max(0, columns - row.left) for row in rows)
        if not tokens:
            return Filled(cache, 0, 0, {}), came
        fill(cache, self.kept, [(keys, values) for keys, values, _ in room], columns)
        return Filled(cache, columns, tokens, _in_all(by_tier, tokens)), came

    def _room(self, rows: int, columns: int) -> list["_Layer"]:
        """Return memory for what each layer keeps of so many columns, and its first column.

        What is padding is zero: it is masked, but must not be what was there before.
        """
        room = []
        kept = self.kept
        for shape, device in zip(kept.shapes, kept.devices, strict=True):
            start = window_start(shape, columns)
            sizes = (shape.key_heads, shape.key_size), (shape.value_heads, shape.value_size)
            keys, values = (
                torch.zeros((rows, heads, columns - start, size), dtype=kept.dtype, device=device)
                for heads, size in sizes
            )
            room.append((keys, values, start))
        return room

    def _of_row(self, layer: "_Layer", index: int, left: int) -> "_Layer":
        """Return a row's keys and values without padding, and of which token the first are."""
        keys, values, start = layer
        skipped = max(0, left - start)
        return keys[index, :, skipped:], values[index, :, skipped:], max(0, start - left)

    def _bring(
        self,
        keys: list[BlockKey],
        wanted: int,
        layers: Sequence["_Layer"],
        by_tier: dict[str, int],
    ) -> int:
        """Fetch the first `wanted` blocks into the layers of a row; return how many came."""
        brought = 0
        staging = self._take(min(len(keys), self._staged_max))
        while keys:
            stop = min(brought + len(staging), len(keys))
            self._settle()  # What the last scatter reads is about to be written.
            try:
                deadline_s = _FETCH_S if wanted else _ANSWER_S
                fetched = self.kv.fetch(keys[:stop], staging, first=brought, deadline_s=deadline_s)
            except InvalidRequest:
                if self._device.type == "cpu":
                    raise
                # Tierd does not reach this GPU, or is on another host.
                self._device = torch.device("cpu")
                return self._bring(keys, wanted, layers, by_tier)
            for tier, blocks in fetched.by_tier.items():
                by_tier[tier] = by_tier.get(tier, 0) + blocks * self._tokens
            came = min(fetched.blocks, wanted - brought)
            self._scatter(staging[:came], brought, layers)
            brought += came
            if brought in (wanted, len(keys)) or brought < stop:
                break
        self._spare.append(staging)
        return brought

    def _scatter(self, staging: torch.Tensor, first: int, layers: Sequence["_Layer"]) -> None:
        """Copy staged blocks, from block `first` on, to where the layers want them."""
        begin, end = first * self._tokens, (first + len(staging)) * self._tokens
        for number, (keys, values, start) in enumerate(layers):
            low, high = max(begin, start), min(end, start + keys.shape[1])
            if low < high:
                parts = self._blocks.keys_values(staging, number)
                for part, dense in zip(parts, (keys, values), strict=True):
                    scatter_tokens(part, dense[:, low - start : high - start], low - begin)

    def _offer(self, keys: list[BlockKey], first: int, layers: Sequence["_Layer"]) -> Published:
        """Publish the last of `keys`, those from `first` on."""
        with self.kv.reserve(keys) as reservation:
            indices = reservation.indices
            if not indices or indices[0] < first:
                return Published(0, 0, reservation.declined + len(indices))
            first, count = indices[0], indices[-1] + 1 - indices[0]
            staging = self._take(count)
            begin, end = first * self._tokens, (first + count) * self._tokens
            for number, (keys_of, values_of, start) in enumerate(layers):
                parts = self._blocks.keys_values(staging[:count], number)
                for part, dense in zip(parts, (keys_of, values_of), strict=True):
                    gather_tokens(dense[:, begin - start : end - start].detach(), part)
            self._settle()
            reservation.write(staging, first)
            self._spare.append(staging)
            sealed = reservation.seal()
            return Published(sealed, 0, reservation.declined + len(indices) - sealed)

    def _take(self, count: int) -> torch.Tensor:
        """Return staging memory for at least so many blocks."""
        try:
            spare = self._spare.pop()
        except IndexError:
            spare = self._blocks.empty(0, self._device)
        fits = len(spare) >= count and spare.device == self._device
        if fits:
            return spare
        with torch.inference_mode(mode=False):  # It outlives the caller's mode.
            return self._blocks.empty(count, self._device)

    def _settle(self) -> None:
        """Wait for copies that are queued on GPUs."""
        for device in {*self.kept.devices, self._device}:
            if device.type != "cpu":
                getattr(torch, device.type).current_stream(device).synchronize()


_Layer = tuple[torch.Tensor, torch.Tensor, int]
"""Keys and values, and of which token (or column) the first are."""


def _in_all(by_tier: dict[str, int], tokens: int) -> dict[str, int]:
    """Return `by_tier` less what was brought beyond `tokens`: the ends of last blocks."""
    left = dict(by_tier)
    beyond = sum(left.values()) - tokens
    for tier in reversed(left):
        less = min(beyond, left[tier])
        left[tier] -= less
        beyond -= less
    return left
