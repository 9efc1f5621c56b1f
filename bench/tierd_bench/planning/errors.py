"""The one fault of planning: a model or a wish that cannot be planned with."""

from dataclasses import dataclass


@dataclass(eq=False)
class PlanError(ValueError):
    """Something that was given makes no sense. `remedy` is what its giver can do about it."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}; {self.remedy}"
