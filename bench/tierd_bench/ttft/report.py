"""Samples as rows: one a case and source, with the local hit of the same length as the limit."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from tierd_bench.bench.rows import Bound, Budget, Figures, Row
from tierd_bench.replay.machine import Machine, current_commit, this_machine
from tierd_bench.ttft.rounds import FIRST, LOCAL, RECOMPUTE, Case, Same, Sample

LESS: Final = "*"
"""Marks figures of which not all reused as much as the local hit does."""

ALIKE_MEANS: Final = "Answers are compared with the local hit's, of new prompts with the computed."
LESS_MEANS: Final = f"{LESS} Not every time as much was reused as by the local hit."

_MS: Final = 1e3
_LOCAL_WHAT: Final = "a local prefix-cache hit, asked right before or after"
_RECOMPUTE_WHAT: Final = "computing all of the prompt, in the same round"
_DISK_WHAT: Final = "a local hit, and reading its KV at the disk's limit (fio, io_uring, O_DIRECT)"
_BUDGET_ENGINE: Final = "vllm"
_BUDGET_CASE: Final = "4k"
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
    """All samples of a group, and what a reader needs to compare them with others.

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
    def prompts(self) -> list[Case]:
        """The prompts that stand alone, in order of lengths."""
        return [case for case in self._cases if not case.turn]

    @property
    def turns(self) -> list[Case]:
        """The turns of conversations, in order."""
        return [case for case in self._cases if case.turn]

    @property
    def sources(self) -> list[str]:
        """Where the KV came from: computing, the local cache, then the stores, tierd first."""
        found = dict.fromkeys(sample.source for sample in self.samples)
        stores = [source for source in found if source not in (RECOMPUTE, LOCAL)]
        return [RECOMPUTE, LOCAL, *sorted(stores, key=_tierd_first)]

    def of(self, case: Case, source: str) -> list[Sample]:
        """Return the samples of a case and a source."""
        return [each for each in self.samples if each.case == case and each.source == source]

    def rows(self) -> list[Row]:
        """Return all rows: against a local hit, and for tierd against computing, too."""
        rows = []
        for case in [*self.prompts, *self.turns]:
            for source in self.sources:
                if found := self.of(case, source):
                    name = self._row_name(case, source)
                    budget = self._budget(case, source)
                    rows.append(_against_local(name, found, budget))
                    if source.startswith("tierd "):
                        rows.append(_against_recompute(name, found))
                    if source.startswith("tierd ") and found[0].disk_seconds:
                        rows.append(_against_disk(name, found))
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

    def _budget(self, case: Case, source: str) -> Budget | None:
        goal = self._kind == _BUDGET_ENGINE and case.name == _BUDGET_CASE
        return _BUDGETS.get(source) if goal else None

    def _row_name(self, case: Case, source: str) -> str:
        return f"ttft_{self._kind}_{case.name}_{source}".replace(" ", "_")

    @property
    def _cases(self) -> list[Case]:
        return list(dict.fromkeys(sample.case for sample in self.samples))

    @property
    def _kind(self) -> str:
        """The engine without its version."""
        return self.engine.split()[0].lower()


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


def cell(report: TtftReport, case: Case, source: str) -> str:
    """Return a case's and source's figures as they stand in tables; empty without samples."""
    found = report.of(case, source)
    if not found:
        return ""
    return f"{median_ms(found):.0f} {ratio_to_local(found):.2f}x{LESS if _is_less(found) else ''}"


def alike(samples: Sequence[Sample]) -> str:
    """Say how the answers compare with those that they are compared with."""
    found = Counter(sample.same for sample in samples)
    return ", ".join(f"{found[same]} {name}" for same, name in _ALIKE if found[same])


def _is_less(samples: Sequence[Sample]) -> bool:
    source = samples[0].source
    computed = source == RECOMPUTE or source.endswith(FIRST)
    return not computed and any(each.reused_tokens < each.case.reusable_tokens for each in samples)


def _against_local(name: str, samples: Sequence[Sample], budget: Budget | None) -> Row:
    case, source = samples[0].case, samples[0].source
    reused = sorted({sample.reused_tokens for sample in samples})
    figures = Figures(
        "ms",
        tuple(sample.seconds * _MS for sample in samples),
        tuple(sample.local_seconds * _MS for sample in samples),
        _LOCAL_WHAT,
        note=(
            f"{case.tokens} tokens, reused {' or '.join(map(str, reused))}; answers against the "
            f"{'computed one' if source.endswith(FIRST) else 'local hit'}: {alike(samples)}"
        ),
        others={RECOMPUTE: tuple(sample.recompute_seconds * _MS for sample in samples)},
    )
    return Row(name, figures, budget)


def _against_recompute(name: str, samples: Sequence[Sample]) -> Row:
    case = samples[0].case
    figures = Figures(
        "ms",
        tuple(sample.seconds * _MS for sample in samples),
        tuple(sample.recompute_seconds * _MS for sample in samples),
        _RECOMPUTE_WHAT,
        note=f"{case.tokens} tokens",
    )
    # What is computed in any case has no bound: a new prompt, or one of less than a block.
    computed = samples[0].source.endswith(FIRST) or not case.reusable_tokens
    return Row(f"{name}_against_recompute", figures, None if computed else _NEVER_SLOWER)


def _against_disk(name: str, samples: Sequence[Sample]) -> Row:
    figures = Figures(
        "ms",
        tuple(sample.seconds * _MS for sample in samples),
        tuple((sample.local_seconds + sample.disk_seconds) * _MS for sample in samples),
        _DISK_WHAT,
        others={"disk": tuple(sample.disk_seconds * _MS for sample in samples)},
    )
    return Row(f"{name}_against_disk", figures, None)


def _tierd_first(source: str) -> tuple[bool, str, bool]:
    """Order sources by store, tierd's before all, and within a store new prompts last."""
    store, tier = source.split(" ", 1)
    return store != "tierd", store, tier == FIRST
