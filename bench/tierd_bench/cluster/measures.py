"""Figures of one run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, quantiles
from typing import Any, Final

from tierd_bench.cluster.assumptions import BALANCE_WINDOW_BYTES
from tierd_bench.cluster.parts import TRAFFIC_BIN_S, Request
from tierd_bench.cluster.simulate import Outcome

STEADY: Final = (0.2, 0.8)
"""The part of a run, by tokens read, that throughput is taken from: before it the first turns have
nothing to read, after it agents run out."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run came to. Times are in simulated seconds; `nics_used` is storage traffic in the
    steady part over what one storage NIC can move."""

    system: str
    model: str
    trace: str
    prefill_nodes: int
    decode_nodes: int
    gpus: int
    agents: int
    seed: int
    jct_s: float
    requests: int
    nics_used: float
    nic_max_over_mean: float
    attention_max_over_mean: float
    ttft_s: float
    ttft_p99_s: float
    tpot_ms: float
    wait_s: float
    read_s: float
    prefill_s: float
    decode_s: float
    recomputed_share: float
    cached_share: float
    working_set_gb: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures, shortened to what means something."""
        return {name: _short(value) for name, value in asdict(self).items()}


def measure(outcome: Outcome, since_s: float = 0.0) -> Figures:
    """Return the figures of a run; times of requests from those submitted after `since_s`."""
    scenario = outcome.scenario
    counted = [r for r in outcome.finished if r.submitted >= since_s] or outcome.finished
    ttft = [r.prefilled - r.submitted for r in counted]
    contexts = max(1, sum(r.turn.context for r in outcome.finished))
    per_token = scenario.model.kv_bytes_per_token
    return Figures(
        system=scenario.system.name,
        model=scenario.model.name,
        trace=scenario.dataset.name,
        prefill_nodes=scenario.prefill_nodes,
        decode_nodes=scenario.decode_nodes,
        gpus=scenario.hardware.gpus,
        agents=scenario.agents,
        seed=scenario.seed,
        jct_s=outcome.end_s,
        requests=len(outcome.finished),
        nics_used=_steady_rate(outcome.traffic) * per_token / scenario.hardware.storage_nic,
        nic_max_over_mean=_imbalance(outcome),
        attention_max_over_mean=_attention(outcome),
        ttft_s=fmean(ttft),
        ttft_p99_s=quantiles(ttft, n=100)[98] if len(ttft) > 1 else ttft[0],
        tpot_ms=1e3 * _tpot(counted),
        wait_s=fmean(r.assigned - r.submitted for r in counted),
        read_s=fmean(r.read - r.assigned for r in counted),
        prefill_s=fmean(r.prefilled - r.read for r in counted),
        decode_s=fmean(r.finished - r.prefilled for r in counted),
        recomputed_share=outcome.recomputed_tokens / contexts,
        cached_share=outcome.cached_tokens / contexts,
        working_set_gb=_live_tokens(outcome) * per_token / 1e9,
    )


def _steady_rate(traffic: Sequence[dict[int, int]]) -> float:
    """Return tokens read a second, of all nodes, in the steady part."""
    bins: Counter[int] = Counter()
    for node in traffic:
        bins.update(node)
    total = sum(bins.values())
    seen = 0
    started: tuple[int, int] | None = None
    for bin_ in sorted(bins):
        seen += bins[bin_]
        if started is None and seen >= STEADY[0] * total:
            started = bin_, seen
        if started is not None and bin_ > started[0] and seen >= STEADY[1] * total:
            return (seen - started[1]) / ((bin_ - started[0]) * TRAFFIC_BIN_S)
    return 0.0


def _imbalance(outcome: Outcome) -> float:
    """Return the mean over windows of the busiest NIC's traffic over the mean NIC's.

    Windows of a short run are a fifth of it.
    """
    traffic = outcome.traffic
    window_s = BALANCE_WINDOW_BYTES / outcome.scenario.hardware.storage_nic
    width = max(1, int(min(window_s, outcome.end_s / 5) / TRAFFIC_BIN_S))
    windows: dict[int, list[int]] = {}
    for place, node in enumerate(traffic):
        for bin_, tokens in node.items():
            windows.setdefault(bin_ // width, [0] * len(traffic))[place] += tokens
    # The first and the last window are not whole.
    whole = [windows[name] for name in sorted(windows)[1:-1] if sum(windows[name])]
    return fmean(max(w) * len(w) / sum(w) for w in whole) if whole else 0.0


def _attention(outcome: Outcome) -> float:
    balance = outcome.attention
    return balance.longest_s / balance.mean_s if balance.mean_s else 0.0


def _tpot(requests: Sequence[Request]) -> float:
    decoded = [r for r in requests if r.turn.generated > 1]
    tokens = sum(r.turn.generated - 1 for r in decoded)
    return sum(r.finished - r.prefilled for r in decoded) / max(1, tokens)


def _live_tokens(outcome: Outcome) -> float:
    """Return the mean over time of the tokens that live agents' contexts hold."""
    last: dict[int, Request] = {}
    weighted = 0.0
    for request in outcome.finished:
        before = last.get(request.agent)
        begun = before.finished if before is not None else request.submitted
        weighted += request.prompt * (request.finished - begun)
        last[request.agent] = request
    return weighted / max(outcome.end_s, 1e-9)


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
