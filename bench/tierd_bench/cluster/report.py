"""Which studies there are, running them, and the report they make."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tierd_bench.cluster.assumptions import ASSUMPTIONS
from tierd_bench.cluster.beyond import beyond
from tierd_bench.cluster.reproduce import (
    ablation,
    equivalences,
    free_of_bottlenecks,
    online,
    own_run,
    table_1,
)
from tierd_bench.cluster.studies import Setup, Study, Tell

STUDIES: Final[Mapping[str, Callable[[Setup, Tell], Study]]] = {
    "table1": table_1,
    "equivalences": equivalences,
    "range": free_of_bottlenecks,
    "ablation": ablation,
    "online": online,
    "beyond": beyond,
    "run": own_run,
}

USUAL: Final = tuple(name for name in STUDIES if name != "run")
"""What is studied when nothing is named."""

NOTE: Final = (
    "Every figure is simulated. Values of the paper (arXiv 2602.21548) are labelled as the "
    "paper's and were measured there on real machines."
)


@dataclass(frozen=True, slots=True)
class Report:
    """The studies of one command, with what they were asked for."""

    version: str
    config: Mapping[str, Any]
    wall_s: float
    studies: Sequence[Study]

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "simulated": True,
            "note": NOTE,
            "version": self.version,
            "config": dict(self.config),
            "wall_s": round(self.wall_s, 1),
            "assumptions": [asdict(one) for one in ASSUMPTIONS],
            "studies": [study.as_json() for study in self.studies],
        }

    def as_csv(self) -> str:
        """Return one line for each value: study, row, column, value."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(("study", "row", "column", "value"))
        for study in self.studies:
            for place, row in enumerate(study.rows):
                lines.writerows((study.name, place, name, value) for name, value in row.items())
        return text.getvalue()
