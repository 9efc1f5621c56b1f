"""The figures of a simulation: what the table, the files and the page are made of."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import Any

from tierd_bench.simulate.references import References
from tierd_bench.simulate.reuse import Reuse
from tierd_bench.traces import Trace
from tierd_bench.traces.requests import root_session


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """What was simulated. `order` says how requests without recorded times were placed."""

    name: str
    requests: int
    sessions: int
    block_tokens: int
    bytes_per_token: int
    block_references: int
    unique_blocks: int
    prompt_tokens: int
    order: str


def facts_of(
    trace: Trace, references: References, bytes_per_token: int, overlap: int, seed: int
) -> TraceFacts:
    """Return what there is to say of a trace before it is simulated."""
    order = "as recorded"
    if any(request.arrival_s is None for request in trace.requests):
        order = f"starts not recorded: {overlap} sessions overlap on average, seed {seed}"
        order = order if overlap else "starts not recorded: one session after another"
    return TraceFacts(
        name=trace.name,
        requests=references.requests,
        sessions=len({root_session(request.session) for request in trace.requests}),
        block_tokens=trace.block_tokens,
        bytes_per_token=bytes_per_token,
        block_references=len(references.blocks),
        unique_blocks=references.unique_blocks,
        prompt_tokens=int(references.prompt_tokens.sum()),
        order=order,
    )


@dataclass(frozen=True, slots=True)
class BoundPoint:
    """The bounds at one capacity, of the whole trace."""

    capacity_blocks: int
    capacity_share: float
    belady: float
    chain_lru: float


@dataclass(frozen=True, slots=True)
class Run:
    """One policy at one capacity.

    `optimum_share` is the hit rate over Belady's. With a sample, `hit_rate` is an estimate and
    `error` about how far off it may be; what cannot be told from a sample is None. `saved` has
    the prompt tokens saved up to the end of each window, and is empty with a sample.
    `references_per_s` is of one core.
    """

    policy: str
    capacity_blocks: int
    capacity_share: float
    capacity_bytes: int
    hit_rate: float
    optimum_share: float
    error: float | None
    token_hit_rate: float | None
    tokens_saved: int | None
    evictions: int | None
    references_per_s: float
    saved: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """All of a simulation."""

    trace: TraceFacts
    infinite_hit_rate: float
    bounds: tuple[BoundPoint, ...]
    runs: tuple[Run, ...]
    reuse: Reuse
    window_ends_s: tuple[float, ...]
    sample_ratio: float

    def as_json(self) -> dict[str, Any]:
        """Return `{trace, bounds, runs}`; rates are shares from 0 to 1."""
        distances = self.reuse.by_powers_of_two()
        return {
            "trace": asdict(self.trace)
            | {
                "sample_ratio": self.sample_ratio,
                "first_uses": self.reuse.first_uses,
                "reuse_distances": [
                    {"blocks_max": blocks, "references": count} for blocks, count in distances
                ],
                "window_ends_s": list(self.window_ends_s),
            },
            "bounds": {
                "infinite": {"hit_rate": self.infinite_hit_rate},
                "belady": [_bound(point, point.belady) for point in self.bounds],
                "chain_lru": [_bound(point, point.chain_lru) for point in self.bounds],
            },
            "runs": [asdict(run) for run in self.runs],
        }

    def as_csv(self) -> str:
        """Return a row for each run, and for the bounds as if they were policies."""
        names = [field.name for field in fields(Run) if field.name != "saved"]
        text = io.StringIO()
        rows = csv.DictWriter(text, ["trace", "kind", *names], extrasaction="ignore", restval="")
        rows.writeheader()
        for kind, policy in (("bound", "infinite"), ("bound", "belady"), ("bound", "chain_lru")):
            for point in self.bounds:
                rate = self.infinite_hit_rate if policy == "infinite" else getattr(point, policy)
                rows.writerow(
                    {"trace": self.trace.name, "kind": kind, "policy": policy} | _bound(point, rate)
                )
        for run in self.runs:
            rows.writerow({"trace": self.trace.name, "kind": "policy"} | asdict(run))
        return text.getvalue()


def _bound(point: BoundPoint, hit_rate: float) -> dict[str, Any]:
    return {
        "capacity_blocks": point.capacity_blocks,
        "capacity_share": point.capacity_share,
        "hit_rate": hit_rate,
    }
