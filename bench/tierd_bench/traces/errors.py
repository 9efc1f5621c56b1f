"""The one fault of the trace readers: a trace that cannot be understood."""

from dataclasses import dataclass


@dataclass(eq=False)
class TraceError(ValueError):
    """A trace, or what was asked of it, makes no sense. Nothing was replayed.

    `source` is the file and, where there is one, the line; `found` is what stands there;
    `remedy` is what its reader can do about it.
    """

    source: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.source}: {self.found}; {self.remedy}"
