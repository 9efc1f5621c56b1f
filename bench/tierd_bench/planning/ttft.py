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
    """

    tiers: str
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    busy_s: float
    engines_busy: float | None
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
    if hits.has_disk:
        rows = zip(prompts, host, both, strict=True)
        ways["host and disk"] = [_Request(t, h, b - h) for t, h, b in rows]
    return [
        _summary(name, [_fastest(one, machine, layout) for one in requests if one.tokens], seconds)
        for name, requests in ways.items()
    ]


def _fastest(request: _Request, machine: Machine, layout: LayoutSpec) -> tuple[float, float]:
    """Return (time to the first token, time computed in it), of the best tiers to read."""
    choices = [(0, 0)]
    if request.host:
        choices.append((request.host, 0))
    if request.disk:
        choices.append((request.host, request.disk))
    times = []
    for host, disk in choices:
        held = min((host + disk) * layout.block_tokens, request.tokens - 1)
        compute_s = machine.prefill.seconds(held, request.tokens - held)
        load_s = machine.host.seconds(host * layout.block_bytes)
        load_s += machine.disk.seconds(disk * layout.block_bytes)
        times.append((load_s + compute_s, compute_s))
    return min(times)


def _summary(name: str, times: list[tuple[float, float]], seconds: float) -> Ttft:
    waits = np.array([wait for wait, _ in times] or [0.0])
    busy_s = sum(compute_s for _, compute_s in times)
    p50, p90, p99 = np.percentile(waits, (50, 90, 99)).tolist()
    return Ttft(
        tiers=name,
        mean_s=float(waits.mean()),
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        busy_s=busy_s,
        engines_busy=busy_s / seconds if seconds > 0 else None,
        every_s=tuple(waits.tolist()),
    )
