"""A trace as numbers: every block an index, every request a slice, in the order of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierd_bench.simulate.hints import no_states, states_after
from tierd_bench.simulate.order import in_order
from tierd_bench.traces import Trace, TraceRequest
from tierd_bench.traces.requests import prefix_length

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
        states         [R]      what the agent does afterwards, as a place in `hints.STATES`
    """

    blocks: Blocks
    starts: Ints
    parents: Blocks
    prompt_tokens: Ints
    times_s: NDArray[np.float64]
    states: NDArray[np.int8]
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


_ARRAYS = ("blocks", "starts", "parents", "prompt_tokens", "times_s", "states")


def open_references(directory: Path) -> References:
    """Map what `References.save` wrote; all processes share the memory."""
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return References(**arrays, block_tokens=int(np.load(directory / "block_tokens.npy")))


def references_of(trace: Trace, overlap: int, seed: int) -> References:
    """Return `trace` as numbers; sessions without a recorded start overlap as `order` says."""
    requests, times_s = in_order(trace.requests, overlap, seed)
    chains = [request.blocks for request in requests]
    lengths = [len(chain) for chain in chains]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    numbered = _numbered(chains, starts)
    blocks = _numbered_as_tree(chains) if numbered is None else numbered
    tokens = [_prompt_tokens(request, trace.block_tokens) for request in requests]
    return References(
        blocks,
        starts,
        parents_of(blocks, starts),
        np.array(tokens, np.int64),
        times_s,
        states_after(requests),
        trace.block_tokens,
    )


def without_hints(references: References) -> References:
    """Return `references` for caches that are told of blocks and nothing else."""
    return replace(references, states=no_states(references.requests))


def parents_of(blocks: Blocks, starts: Ints) -> Blocks:
    """Return the block before each block, for blocks that all have one."""
    before = np.empty_like(blocks)
    before[1:] = blocks[:-1]
    # An empty request has no first block; at the end it starts where there is nothing.
    before[starts[:-1][np.diff(starts) > 0]] = _NO_PARENT
    parents = np.full(int(blocks.max(initial=-1)) + 1, _NO_PARENT, np.int32)
    parents[blocks] = before
    return parents


def _numbered(chains: Sequence[Sequence[int]], starts: Ints) -> Blocks | None:
    """Return all blocks by number; None if the same id does not always stand for one prefix.

    What is known of a chain is copied from the request that brought its last known block, so
    that only new blocks cost more than the memory they pass through.
    """
    blocks = np.empty(starts[-1], np.int32)
    numbers: dict[int, int] = {}
    brought_by: list[int] = []
    for request, (chain, start) in enumerate(zip(chains, starts.tolist(), strict=False)):
        known = prefix_length(numbers, chain)
        if known:
            former = brought_by[numbers[chain[known - 1]]]
            if chain[:known] != chains[former][:known]:
                return None
            blocks[start : start + known] = blocks[starts[former] : starts[former] + known]
        new = range(len(numbers), len(numbers) + len(chain) - known)
        blocks[start + known : start + len(chain)] = new
        numbers.update(zip(chain[known:], new, strict=True))
        brought_by += [request] * len(new)
        if len(numbers) != len(brought_by):
            return None
    return blocks


def _numbered_as_tree(chains: Sequence[Sequence[int]]) -> Blocks:
    """Return all blocks by number, each its parent's child: formats promise that, files may err."""
    numbers: dict[tuple[int, int], int] = {}
    blocks: list[int] = []
    for chain in chains:
        parent = _NO_PARENT
        for block in chain:
            parent = numbers.setdefault((parent, block), len(numbers))
            blocks.append(parent)
    return np.array(blocks, np.int32)


def _prompt_tokens(request: TraceRequest, block_tokens: int) -> int:
    if request.prompt_tokens is not None:
        return request.prompt_tokens
    return len(request.blocks) * block_tokens
