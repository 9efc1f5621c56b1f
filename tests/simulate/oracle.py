"""Caches of prefix chains on plain lists and sets, sharing no code with the simulator."""

import random
from collections.abc import Iterator, Sequence
from itertools import combinations

from tierd_bench.simulate.references import References, references_of
from tierd_bench.traces import Trace, TraceRequest

Chains = Sequence[Sequence[int]]


def lru_hits(chains: Chains, capacity: int) -> list[int]:
    """Return the leading hits of each chain; the coldest stands first, leaves before parents."""
    held: list[int] = []
    hits = []
    for chain in chains:
        hits.append(_leading(chain, set(held)))
        kept = list(chain[:capacity])
        others = [block for block in held if block not in kept]
        held = others[max(0, len(others) + len(kept) - capacity) :] + kept[::-1]
    return hits


def most_hits(chains: Chains, capacity: int) -> int:
    """Return the most hits of any cache that holds each chain when it ends: tries everything.

    Any set of blocks may be evicted, not leaves alone, so it shows too that leaves cost nothing.
    """
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for chain in chains:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            hits += _leading(chain, held)
            for after in _after(held, frozenset(chain[:capacity]), capacity):
                following[after] = max(hits, following.get(after, 0))
        states = following
    return max(states.values())


def _after(held: frozenset[int], kept: frozenset[int], capacity: int) -> Iterator[frozenset[int]]:
    others = held - kept
    room = capacity - len(kept)
    for stay in combinations(others, min(room, len(others))):
        yield kept | frozenset(stay)


def _leading(chain: Sequence[int], held: set[int] | frozenset[int]) -> int:
    return next((at for at, block in enumerate(chain) if block not in held), len(chain))


def random_chains(seed: int, requests: int, branches: int = 3, depth: int = 6) -> list[list[int]]:
    """Return walks from the roots of a random forest; equal numbers mean equal prefixes."""
    source = random.Random(seed)
    numbers: dict[tuple[int, ...], int] = {}
    chains = []
    for _ in range(requests):
        steps = [min(source.randrange(branches), source.randrange(branches)) for _ in range(depth)]
        path = tuple(steps[: source.randint(1, depth)])
        prefixes = (path[:length] for length in range(1, len(path) + 1))
        chains.append([numbers.setdefault(prefix, len(numbers)) for prefix in prefixes])
    return chains


def trace_of(chains: Chains, block_tokens: int = 16) -> Trace:
    """Return a trace that asks for `chains`, one a second."""
    requests = (
        TraceRequest(str(at), float(at), tuple(chain), 1) for at, chain in enumerate(chains)
    )
    return Trace("made", block_tokens, tuple(requests))


def made_references(chains: Chains) -> References:
    """Return `chains` as the simulator takes them."""
    return references_of(trace_of(chains), overlap=1, seed=0)


def ignore(*done: int) -> None:
    """Hear progress, and do nothing."""
