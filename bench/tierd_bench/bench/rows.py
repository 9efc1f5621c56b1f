"""What a benchmark says: one row a figure, with the machine's limit and the budget beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Any


class BudgetOf(Enum):
    """What a budget is about: the row's ratio, or its value."""

    RATIO = "ratio"
    VALUE = "value"


class Bound(Enum):
    """Which side of a budget is the good one."""

    LEAST = ">="
    MOST = "<="


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound on a row's ratio or value."""

    bound: Bound
    amount: float
    of: BudgetOf = BudgetOf.RATIO

    def met(self, value: float, ratio: float) -> bool:
        """Say whether a row's figures are within the budget."""
        found = ratio if self.of is BudgetOf.RATIO else value
        return found >= self.amount if self.bound is Bound.LEAST else found <= self.amount

    def __str__(self) -> str:
        subject = "" if self.of is BudgetOf.RATIO else "value "
        return f"{subject}{self.bound.value} {self.amount:g}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What every run gave, for tierd and right after it for the machine's limit.

    Units: `values`, `limits` and `others` are in `unit`. `limit_what` says what the limit is,
    `note` what else a reader needs; `others` are further measures of the same runs, by name.
    """

    unit: str
    values: tuple[float, ...]
    limits: tuple[float, ...]
    limit_what: str
    note: str = ""
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of tierd with its limit and its budget."""

    name: str
    figures: Figures
    budget: Budget | None

    @property
    def value(self) -> float:
        """The median of the runs."""
        return median(self.figures.values)

    @property
    def limit(self) -> float:
        """The median of the limit's runs."""
        return median(self.figures.limits)

    @property
    def ratio(self) -> float:
        """The value as a multiple of the limit: the median over the runs, each with its own."""
        figures = self.figures
        if len(figures.values) != len(figures.limits):
            return self.value / self.limit
        pairs = zip(figures.values, figures.limits, strict=True)
        return median(value / limit for value, limit in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the budget is met; None where there is none."""
        return self.budget.met(self.value, self.ratio) if self.budget else None

    def as_json(self) -> dict[str, Any]:
        """Return the row as it is written to files."""
        figures = self.figures
        return {
            "name": self.name,
            "value": _digits(self.value),
            "unit": figures.unit,
            "limit": _digits(self.limit),
            "limit_what": figures.limit_what,
            "ratio": _digits(self.ratio),
            "budget": str(self.budget) if self.budget else None,
            "met": self.met,
            "runs": len(figures.values),
            "values": [_digits(value) for value in figures.values],
            "limits": [_digits(limit) for limit in figures.limits],
            "others": {
                name: [_digits(value) for value in values]
                for name, values in figures.others.items()
            },
            "note": figures.note,
        }


def _digits(figure: float) -> float:
    return float(f"{figure:.4g}")
