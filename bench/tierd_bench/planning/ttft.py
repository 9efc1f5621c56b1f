"""Time to first token of a trace's requests, each alone on the machine.

What is held is loaded, then the rest is computed; a tier is read only if that makes the first
token earlier, as clients do that say how fast they compute. At least one token is computed.
"""

from dataclasses import dataclass

import numpy as np

from tierd.core.layouts import LayoutSpec
from tierd_bench.planning.demand import Hits
from tierd_bench.planning.machine import Machine
from tierd_bench.simulate.references import References


@dataclass(frozen=True, slots=True)
class Ttft:
    """How long requests wait for their first token.

    `busy_s` is the time that engines compute for them, `engines_busy` that time over the time
    in which they come, None where that is not known: with more than there are engines, they queue.
    `disk_blocks` were read from disk.
    """

    tiers: str
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    busy_s: float
    engines_busy: float | None
    disk_blocks: int
    every_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Request:
    """A prompt, and how many of its blocks are in host memory and how many on disk only."""

    tokens: int
    host: int
    disk: int


def ttfts(
    references: References, hits: Hits, machine: Machine, layout: LayoutSpec, seconds: float
) -> list[Ttft]:
    """Return the times without a cache, with host memory alone, and with both tiers.

    Units: the requests come in so many `seconds`.
    """
    prompts = references.prompt_tokens.tolist()
    host, both = hits.host.tolist(), hits.together.tolist()
    ways = {
        "no cache": [_Request(tokens, 0, 0) for tokens in prompts],
        "host": [_Request(t, h, 0) for t, h in zip(prompts, host, strict=True)],
    }
    if hits.disk_reads:
        rows = zip(prompts, host, both, strict=True)
        ways["host and disk"] = [_Request(t, h, b - h) for t, h, b in rows]
    return [
        _summary(name, [_fastest(one, machine, layout) for one in requests if one.tokens], seconds)
        for name, requests in ways.items()
    ]


@dataclass(frozen=True, slots=True)
class _Served:
    """How one request got its first token."""

    wait_s: float
    compute_s: float
    disk_blocks: int


def _fastest(request: _Request, machine: Machine, layout: LayoutSpec) -> _Served:
    """Return what comes of reading the tiers that are best to read."""
    choices = [(0, 0)]
    if request.host:
        choices.append((request.host, 0))
    if request.disk:
        choices.append((request.host, request.disk))
    served = []
    for host, disk in choices:
        held = min((host + disk) * layout.block_tokens, request.tokens - 1)
        compute_s = machine.prefill.seconds(held, request.tokens - held)
        load_s = machine.host.seconds(host * layout.block_bytes)
        load_s += machine.disk.seconds(disk * layout.block_bytes)
        served.append(_Served(load_s + compute_s, compute_s, disk))
    return min(served, key=lambda one: one.wait_s)


def _summary(name: str, served: list[_Served], seconds: float) -> Ttft:
    waits = np.array([one.wait_s for one in served] or [0.0])
    busy_s = sum(one.compute_s for one in served)
    p50, p90, p99 = np.percentile(waits, (50, 90, 99)).tolist()
    return Ttft(
        tiers=name,
        mean_s=float(waits.mean()),
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        busy_s=busy_s,
        engines_busy=busy_s / seconds if seconds > 0 else None,
        disk_blocks=sum(one.disk_blocks for one in served),
        every_s=tuple(waits.tolist()),
    )
