"""Samples as rows: one a scene and way, with the local hit of the same length as the limit."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from tierd_bench.bench.rows import Bound, Budget, Figures, Row
from tierd_bench.replay.machine import Machine, current_commit, this_machine
from tierd_bench.ttft.rounds import FIRST, LOCAL, RECOMPUTE, Same, Sample, Scene

LESS: Final = "*"
"""Marks figures of which not all reused as much as the local hit."""

_MS: Final = 1e3
_LOCAL_WHAT: Final = "a local prefix-cache hit, asked right before or after"
_RECOMPUTE_WHAT: Final = "computing all of the prompt, in the same round"
_DISK_WHAT: Final = "a local hit, and reading its KV at the disk's limit (fio, io_uring, O_DIRECT)"
_BUDGET_SCENE: Final = "4k"
_BUDGETS: Final = {
    "tierd host": Budget(Bound.MOST, 1.15),
    "tierd disk": Budget(Bound.MOST, 1.5),
}
_ALIKE: Final[tuple[tuple[Same, str], ...]] = (
    ("bits", "identical"),
    ("tokens", "same tokens"),
    ("no", "other tokens"),
)
_NEVER_SLOWER: Final = Budget(Bound.MOST, 1.0)


@dataclass(frozen=True, slots=True)
class TtftReport:
    """All samples, and what a reader needs to compare them with others.

    `load` is the machine's mean number of running processes in the minute before.
    """

    samples: Sequence[Sample]
    model: str
    engine: str
    seed: int
    machine: Machine
    load: float
    commit: str
    date: str

    @property
    def scenes(self) -> list[Scene]:
        """What was asked, in order, prompts first."""
        return list(dict.fromkeys(sample.scene for sample in self.samples))

    @property
    def ways(self) -> list[str]:
        """Where the KV came from: computing, the local cache, then the stores by name."""
        found = dict.fromkeys(sample.way for sample in self.samples)
        stores = sorted((way for way in found if way not in (RECOMPUTE, LOCAL)), key=_tierd_first)
        return [RECOMPUTE, LOCAL, *stores]

    def of(self, scene: Scene, way: str) -> list[Sample]:
        """Return the samples of a scene and a way."""
        return [each for each in self.samples if each.scene == scene and each.way == way]

    def rows(self) -> list[Row]:
        """Return all rows: against a local hit, and for tierd against computing, too."""
        rows = []
        for scene in self.scenes:
            for way in self.ways:
                if found := self.of(scene, way):
                    rows.append(_against_local(scene, way, found))
                    if way.startswith("tierd "):
                        rows.append(_against_recompute(scene, way, found))
                    if way.startswith("tierd ") and found[0].disk_seconds:
                        rows.append(_against_disk(scene, way, found))
        return rows

    def as_lines(self) -> list[dict[str, Any]]:
        """Return one record a row, each with all that it needs to stand alone."""
        machine = self.machine.as_json(self.load)
        about = {
            "machine": machine,
            "commit": self.commit,
            "date": self.date,
            "seed": self.seed,
            "model": self.model,
            "engine": self.engine,
        }
        return [{**about, **row.as_json()} for row in self.rows()]


def make_report(samples: Iterable[Sample], model: str, engine: str, seed: int) -> TtftReport:
    """Take all `samples`, and say where and when."""
    load = round(os.getloadavg()[0], 2)
    taken = tuple(samples)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return TtftReport(taken, model, engine, seed, this_machine(), load, current_commit(), date)


def median_ms(samples: Sequence[Sample]) -> float:
    """Return the median time to first token."""
    return median(sample.seconds for sample in samples) * _MS


def ratio_to_local(samples: Sequence[Sample]) -> float:
    """Return the median over the samples, each against its own local hit."""
    return median(sample.seconds / sample.local_seconds for sample in samples)


def cell(report: TtftReport, scene: Scene, way: str) -> str:
    """Return a scene's and way's figures as they stand in tables; empty without samples."""
    found = report.of(scene, way)
    if not found:
        return ""
    least = min(sample.reused_tokens for sample in found)
    local = min(sample.reused_tokens for sample in report.of(scene, LOCAL))
    mark = LESS if least < local and way != RECOMPUTE and not way.endswith(FIRST) else ""
    return f"{median_ms(found):.0f} {ratio_to_local(found):.2f}x{mark}"


def alike(samples: Sequence[Sample]) -> str:
    """Say how the answers compare with those of the local hit."""
    found = Counter(sample.same for sample in samples)
    return ", ".join(f"{found[same]} {name}" for same, name in _ALIKE if found[same])


def _against_local(scene: Scene, way: str, samples: Sequence[Sample]) -> Row:
    budget = _BUDGETS.get(way) if scene.name == _BUDGET_SCENE else None
    reused = sorted({sample.reused_tokens for sample in samples})
    figures = Figures(
        "ms",
        tuple(sample.seconds * _MS for sample in samples),
        tuple(sample.local_seconds * _MS for sample in samples),
        _LOCAL_WHAT,
        note=(
            f"{scene.tokens} tokens, reused {' or '.join(map(str, reused))}; answers against the "
            f"{'computed one' if way.endswith(FIRST) else 'local hit'}: {alike(samples)}"
        ),
        others={RECOMPUTE: tuple(sample.recompute_seconds * _MS for sample in samples)},
    )
    return Row(_name(scene, way), figures, budget)


def _against_recompute(scene: Scene, way: str, samples: Sequence[Sample]) -> Row:
    figures = Figures(
        "ms",
        tuple(sample.seconds * _MS for sample in samples),
        tuple(sample.recompute_seconds * _MS for sample in samples),
        _RECOMPUTE_WHAT,
        note=f"{scene.tokens} tokens",
    )
    # A prompt that is new is computed in any case: what keeping it costs has no bound.
    budget = None if way.endswith(FIRST) or scene.turn == 1 else _NEVER_SLOWER
    return Row(f"{_name(scene, way)}_against_recompute", figures, budget)


def _against_disk(scene: Scene, way: str, samples: Sequence[Sample]) -> Row:
    figures = Figures(
        "ms",
        tuple(sample.seconds * _MS for sample in samples),
        tuple((sample.local_seconds + sample.disk_seconds) * _MS for sample in samples),
        _DISK_WHAT,
        others={"disk": tuple(sample.disk_seconds * _MS for sample in samples)},
    )
    return Row(f"{_name(scene, way)}_against_disk", figures, None)


def _name(scene: Scene, way: str) -> str:
    return f"ttft_{scene.name}_{way}".replace(" ", "_")


def _tierd_first(way: str) -> tuple[bool, str, bool]:
    store, place = way.split(" ", 1)
    return store != "tierd", store, place == FIRST
