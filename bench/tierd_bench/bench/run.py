"""A whole benchmark: the rows wanted, each on its stage, and the machine they were measured on."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from tierd_bench.bench.catalogue import Measure
from tierd_bench.bench.rows import Row
from tierd_bench.bench.sizes import Sizes
from tierd_bench.bench.stage import SEED, set_stage
from tierd_bench.replay.machine import Machine, current_commit, this_machine

Tell = Callable[[str], None]
"""Called with a row's name after each of its runs."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All figures, and what a reader needs to compare them with others.

    `load` is the machine's mean number of running processes in the minute before. `commit` is
    empty where the code is in no git repository.
    """

    machine: Machine
    load: float
    commit: str
    date: str
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as it is written to a file."""
        return {**self._circumstances(), "rows": [row.as_json() for row in self.rows]}

    def as_lines(self) -> list[dict[str, Any]]:
        """Return one record a row, each with all that it needs to stand alone."""
        return [{**self._circumstances(), **row.as_json()} for row in self.rows]

    def _circumstances(self) -> dict[str, Any]:
        machine = self.machine.as_json(self.load)
        return {"machine": machine, "commit": self.commit, "date": self.date, "seed": SEED}


def run_bench(
    measures: Sequence[Measure], sizes: Sizes, directory: Path | None, tell: Tell
) -> BenchReport:
    """Measure, with blocks on the disk that `directory` is on.

    Raises:
        DaemonFailed: a daemon did not start.
        NotMeasured: something did not come out as a measure needs it.
        OSError: the directory cannot be used.
    """
    load = os.getloadavg()[0]
    rows = tuple(_rows(measures, sizes, directory, tell))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return BenchReport(this_machine(), round(load, 2), current_commit(), date, rows)


def _rows(
    measures: Sequence[Measure], sizes: Sizes, directory: Path | None, tell: Tell
) -> Iterator[Row]:
    for scene, group in groupby(measures, lambda measure: measure.scene):
        with set_stage(scene, sizes, directory) as stage:
            for measure in group:
                stage.tell = partial(tell, measure.name)
                yield Row(measure.name, measure.measure(stage), measure.budget)
