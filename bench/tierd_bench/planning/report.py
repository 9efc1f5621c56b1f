"""The figures of a plan: what the table, the file and the page are made of.

Sizes are bytes, times seconds, rates shares from 0 to 1. `computed` figures follow from sizes and
rates, `simulated` ones from a trace besides.
"""

from dataclasses import asdict, dataclass
from typing import Any

from tierd_bench.planning.endurance import Lifetime
from tierd_bench.planning.loading import BreakEven, Length
from tierd_bench.planning.machine import Setting
from tierd_bench.planning.ttft import Ttft
from tierd_bench.simulate.report import TraceFacts


@dataclass(frozen=True, slots=True)
class Kv:
    """What KV weighs. `windowed_bytes` is the part of a token's that only the last window needs.

    `rank_token_bytes` is of one rank, the others of all ranks together; `replicas` is how often
    every head is kept. `state_bytes` is in every block.
    """

    model: str
    dtype: str
    tensor_parallel: int
    token_bytes: int
    rank_token_bytes: int
    windowed_bytes: int
    state_bytes: int
    replicas: int
    block_tokens: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A tier of the size given, and what fits into it."""

    tier: str
    bytes: int
    blocks: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Needed:
    """The smallest tiers that reach a hit rate, None where no size does.

    `host_alone_bytes` is for host memory and no disk; `disk_bytes` for a disk beside the host
    memory given, 0 if that is enough.
    """

    hit_rate: float
    blocks: int | None
    host_alone_bytes: int | None
    disk_bytes: int | None


@dataclass(frozen=True, slots=True)
class Workload:
    """All that was simulated. `curve` has (bytes, hit rate) of chain LRU at many sizes.

    `hit_rates` is what each tier adds to those hotter than it, `optimum` the hit rate that no
    eviction exceeds in as many blocks, `seconds` how long the requests take to come.
    """

    trace: TraceFacts
    policy: str
    seconds: float
    infinite_hit_rate: float
    hit_rate: float
    optimum: float
    hit_rates: dict[str, float]
    needed: tuple[Needed, ...]
    curve: tuple[tuple[int, float], ...]
    ttft: tuple[Ttft, ...]
    lifetime: Lifetime | None

    @property
    def optimum_share(self) -> float:
        """What share of the hits of the best possible eviction the tiers have."""
        return self.hit_rate / self.optimum if self.optimum else 1.0

    @property
    def infinite_share(self) -> float:
        """What share of the hits of a cache that never evicts the tiers have."""
        return self.hit_rate / self.infinite_hit_rate if self.infinite_hit_rate else 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """All of a plan. `workload` is None without a trace."""

    version: str
    kv: Kv
    settings: tuple[Setting, ...]
    lengths: tuple[Length, ...]
    break_evens: tuple[BreakEven, ...]
    tiers: tuple[Fit, ...]
    workload: Workload | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "version": self.version,
            "settings": [
                {"name": one.name, "value": one.value, "assumed": one.is_assumed, "why": one.origin}
                for one in self.settings
            ],
            "computed": {
                "kv": asdict(self.kv),
                "tiers": [asdict(one) for one in self.tiers],
                "break_even": [asdict(one) for one in self.break_evens],
                "lengths": [
                    asdict(one) | {"worth_loading": one.worth_loading} for one in self.lengths
                ],
            },
            "simulated": None if self.workload is None else _workload_json(self.workload),
            "notes": list(self.notes),
        }


def _workload_json(workload: Workload) -> dict[str, Any]:
    values = asdict(workload)
    for times in values["ttft"]:
        del times["every_s"]
    shares = {
        "optimum_share": workload.optimum_share,
        "infinite_share": workload.infinite_share,
    }
    curve = [{"bytes": size, "hit_rate": rate} for size, rate in workload.curve]
    return values | shares | {"curve": curve}
