"""JSON objects of a trace, read field by field with errors that say where and what.

The readers ask for a field by name and type; what the fields mean is theirs.
"""

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Never

import numpy as np

from tierd_bench.traces.documents import Document
from tierd_bench.traces.errors import TraceError

_CHECK = "check that the file is whole and of this format"


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object, and where it stands.

    Every method raises `TraceError` when its field is missing or of another type; those with a
    `default` return it when the field is missing or null.
    """

    where: str
    fields: Mapping[str, object]

    def has(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        return value if isinstance(value, str) else self._refuse(name, value, "a text")

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number that is not negative."""
        value = self._value(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        return self._refuse(name, value, "a whole number, 0 or more")

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return self._refuse(name, value, "a number")

    def records(self, name: str) -> list["Record"]:
        """Return a list of objects."""
        value = self._value(name, None)
        if not isinstance(value, list):
            return self._refuse(name, value, "a list")
        return [as_record(entry, f"{self.where}, {name}[{at}]") for at, entry in enumerate(value)]

    def block_ids(self, name: str, scope: int) -> "array[int]":
        """Return a list of block ids, moved by `scope` so that other documents' ids differ.

        Within one scope different ids stay different; two scopes would have to agree in their
        upper 40 bits or so to meet, which 64-bit digests do not.
        """
        value = self._value(name, None)
        ids = np.asarray(value if value else np.empty(0, np.uint64))
        if not isinstance(value, list) or ids.ndim != 1 or ids.dtype.kind not in "iu":
            return self._refuse(name, value, "a list of whole numbers")
        if ids.dtype.kind == "i" and ids.size and ids.min() < 0:
            return self._refuse(name, int(ids.min()), "ids of 0 or more")
        return array("Q", (ids.astype(np.uint64) ^ np.uint64(scope)).tobytes())

    def _value(self, name: str, default: object) -> object:
        value = self.fields.get(name)
        if value is None and default is None:
            raise TraceError(self.where, f"no field {name!r}", _CHECK)
        return default if value is None else value

    def _refuse(self, name: str, value: object, wanted: str) -> Never:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise TraceError(self.where, f"{name} is {shown}, wanted {wanted}", _CHECK)


def read_lines(document: Document) -> Iterator[Record]:
    """Yield the objects of a JSON-lines document. Blank lines are skipped."""
    with document.reading() as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                where = f"{document.name} line {number}"
                yield as_record(_parsed(line, where), where)


def read_whole(document: Document) -> object:
    """Return a whole document as one JSON value."""
    with document.reading() as stream:
        return _parsed(stream.read(), document.name)


def as_record(value: object, where: str) -> Record:
    """Return `value` as a record, or refuse it when it is not a JSON object."""
    if not isinstance(value, dict):
        raise TraceError(where, f"a JSON {type(value).__name__}, wanted an object", _CHECK)
    return Record(where, value)


def _parsed(data: bytes, where: str) -> object:
    try:
        value: object = json.loads(data)
    except ValueError as fault:  # JSONDecodeError and UnicodeDecodeError both are
        raise TraceError(where, f"not JSON: {fault}", _CHECK) from fault
    return value
