"""What a study is: rows of figures, and claims that hold them against the paper or a formula."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from tierd_bench.cluster.measures import Figures, measure
from tierd_bench.cluster.models import MODELS, Hardware, Model
from tierd_bench.cluster.simulate import Scenario, simulate
from tierd_bench.cluster.systems import SYSTEMS
from tierd_bench.cluster.workload import DATASETS, Dataset

Shape = tuple[int, int]
"""Prefill nodes, decode nodes."""

Tell = Callable[[str], None]
"""Told what is about to be simulated."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the user chose; a study has its own value for what is None."""

    model: Model | None = None
    dataset: Dataset | None = None
    shape: Shape | None = None
    shapes: tuple[Shape, ...] = ()
    systems: tuple[str, ...] = ()
    hardware: Hardware = field(default_factory=lambda: Hardware.of_gpus(2))
    agents: int | None = None
    seed: int = 0

    def scenario(self, system: str, model: str, trace: str, shape: Shape, agents: int) -> Scenario:
        """Return a scenario of the study's own values, where the user chose none."""
        prefill, decode = shape
        return Scenario(
            SYSTEMS[system],
            self.model or MODELS[model],
            self.dataset or DATASETS[trace],
            prefill,
            decode,
            self.hardware,
            agents,
            self.seed,
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A simulated value beside the one it should have. `source` says whose that is.

    `tolerance` is in the same unit as the values; infinite where nothing is promised.
    """

    about: str
    simulated: float
    wanted: float
    tolerance: float
    unit: str
    source: str

    @property
    def holds(self) -> bool:
        """Whether the value is within its tolerance."""
        return abs(self.simulated - self.wanted) <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """Return the claim for a report."""
        return {
            "about": self.about,
            "simulated": float(f"{self.simulated:.5g}"),
            "wanted": float(f"{self.wanted:.5g}"),
            "tolerance": None if self.tolerance == inf else self.tolerance,
            "unit": self.unit,
            "source": self.source,
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True)
class Study:
    """The outcome of a study. Rows have the same keys, in the order of columns."""

    name: str
    title: str
    about: str
    rows: list[dict[str, Any]]
    claims: list[Claim]

    def as_json(self) -> dict[str, Any]:
        """Return the study for a report."""
        return {
            "name": self.name,
            "title": self.title,
            "about": self.about,
            "rows": self.rows,
            "claims": [claim.as_json() for claim in self.claims],
        }


def run(scenario: Scenario, tell: Tell, **changes: Any) -> Figures:
    """Simulate a scenario, with `changes` to its fields, and measure it."""
    changed = replace(scenario, **changes)
    tell(
        f"{changed.system.name} {changed.model.name} "
        f"{changed.prefill_nodes}P{changed.decode_nodes}D {changed.dataset.name}"
    )
    # With an end, what is before its middle is the way to the steady state.
    since = changed.until_s / 2 if changed.until_s < inf else 0.0
    return measure(simulate(changed), since)


def shape_name(shape: Shape) -> str:
    """Return a shape as the paper writes it."""
    return f"{shape[0]}P{shape[1]}D"


def percent(value: float, base: float) -> float:
    """Return by how many percent `value` lies over `base`."""
    return 100 * (value / base - 1)
