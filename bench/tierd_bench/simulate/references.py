"""A trace as numbers: every block an index, every request a slice, in the order of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.order import in_order
from tierd_bench.traces import Trace, TraceRequest

Ints = NDArray[np.int64]
Blocks = NDArray[np.int32]

_NO_PARENT = -1


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The blocks that requests ask for, one request after another.

    Shapes: R requests, N block references, U unique blocks.

        blocks         [N]      in [0, U), by first appearance
        starts         [R + 1]  request r asks for blocks[starts[r]:starts[r + 1]], root first
        parents        [U]      the block before each, -1 of a first one
        prompt_tokens  [R]      whole prompts, tails without a block included
        times_s        [R]      when requests come, from the first on
    """

    blocks: Blocks
    starts: Ints
    parents: Blocks
    prompt_tokens: Ints
    times_s: NDArray[np.float64]
    block_tokens: int

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return len(self.starts) - 1

    @property
    def unique_blocks(self) -> int:
        """How many different blocks there are: what an infinite cache would hold."""
        return len(self.parents)

    def chain(self, request: int) -> Blocks:
        """Return the blocks of a request."""
        return self.blocks[self.starts[request] : self.starts[request + 1]]

    def tokens_saved(self, hits: NDArray[np.int32]) -> Ints:
        """Return the prompt tokens that each request need not compute, given its leading hits.

        A last block that is only partly full saves what is in it.
        """
        return np.minimum(hits.astype(np.int64) * self.block_tokens, self.prompt_tokens)

    def save(self, directory: Path) -> None:
        """Write the arrays to a directory, for `open_references` in other processes."""
        for name in _ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name))
        np.save(directory / "block_tokens.npy", np.array(self.block_tokens))


_ARRAYS = ("blocks", "starts", "parents", "prompt_tokens", "times_s")


def open_references(directory: Path) -> References:
    """Map what `References.save` wrote; all processes share the memory."""
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return References(**arrays, block_tokens=int(np.load(directory / "block_tokens.npy")))


def references_of(trace: Trace, overlap: int, seed: int) -> References:
    """Return `trace` as numbers; sessions without a recorded start overlap as `order` says."""
    requests, times_s = in_order(trace.requests, overlap, seed)
    lengths = np.array([len(request.blocks) for request in requests], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    blocks, unique = _renumbered(_flat(requests))
    parents = parents_of(blocks, starts, unique)
    if parents is None:
        blocks, unique = _renumbered(_as_tree(blocks, starts))
        parents = parents_of(blocks, starts, unique)
        assert parents is not None, "in a tree a block has one parent"
    tokens = [_prompt_tokens(request, trace.block_tokens) for request in requests]
    return References(
        blocks, starts, parents, np.array(tokens, np.int64), times_s, trace.block_tokens
    )


def _flat(requests: Sequence[TraceRequest]) -> NDArray[np.uint64]:
    parts = [np.asarray(request.blocks, np.uint64) for request in requests]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _renumbered(ids: NDArray[np.uint64]) -> tuple[Blocks, int]:
    """Return `ids` numbered from 0 on by first appearance, and how many there are."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int32)
    numbers[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return numbers[inverse], len(first)


def parents_of(blocks: Blocks, starts: Ints, unique: int) -> Blocks | None:
    """Return the block before each block; None if that is not always the same one."""
    before = np.empty_like(blocks)
    before[1:] = blocks[:-1]
    # An empty last request starts beyond the end.
    before[starts[:-1][np.diff(starts) > 0]] = _NO_PARENT
    parents = np.full(unique, _NO_PARENT, np.int32)
    parents[blocks[::-1]] = before[::-1]
    return parents if np.array_equal(parents[blocks], before) else None


def _as_tree(blocks: Blocks, starts: Ints) -> NDArray[np.uint64]:
    """Return other ids, in which equal id means equal prefix: formats promise it, files may err."""
    numbers: dict[tuple[int, int], int] = {}
    ids = np.empty(len(blocks), np.uint64)
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        parent = _NO_PARENT
        for place in range(start, end):
            parent = numbers.setdefault((parent, int(blocks[place])), len(numbers))
            ids[place] = parent
    return ids


def _prompt_tokens(request: TraceRequest, block_tokens: int) -> int:
    if request.prompt_tokens is not None:
        return request.prompt_tokens
    return len(request.blocks) * block_tokens
