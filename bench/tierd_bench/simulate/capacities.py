"""How large caches are to be: as people write it, and as blocks."""

import re
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tierd.core.units import GiB, KiB, MiB

_BYTES: Final = {"KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": GiB << 10}
_DECIMAL: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS: Final = {name.lower(): size for name, size in (_BYTES | _DECIMAL).items()}
_WRITTEN: Final = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*(%|[a-zA-Z]*)")
_CURVE_LEAST: Final = 0.005


@dataclass(eq=False)
class BadCapacity(ValueError):
    """A capacity cannot be understood."""

    text: str

    def __str__(self) -> str:
        return f"{self.text!r} is no capacity"


@dataclass(frozen=True, slots=True)
class Size:
    """A cache's size for one trace. `share` is as asked for, where that was a share."""

    blocks: int
    share: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What was asked for: a share of a trace's unique blocks, bytes, or blocks."""

    amount: float
    unit: Literal["share", "bytes", "blocks"]

    def size(self, unique_blocks: int, block_bytes: int) -> Size:
        """Return how many whole blocks that is; 1 at least, since a cache of none is none."""
        scale = {"share": float(unique_blocks), "bytes": 1 / block_bytes, "blocks": 1.0}
        # What is a whole number but for rounding counts as one.
        blocks = max(1, int(self.amount * scale[self.unit] + 1e-9))
        return Size(blocks, self.amount if self.unit == "share" else blocks / unique_blocks)


def read_capacity(text: str) -> Capacity:
    """Return what `text` says: `10%`, `64GiB`, or a number of blocks.

    Raises:
        BadCapacity: it is none of them, not above 0, or a share above 100 %.
    """
    match = _WRITTEN.fullmatch(text.strip())
    if match is None or not float(match[1].replace("_", "")):
        raise BadCapacity(text)
    amount, unit = float(match[1].replace("_", "")), match[2].lower()
    if unit == "%" and amount <= 100:
        return Capacity(amount / 100, "share")
    if unit in _UNITS:
        return Capacity(amount * _UNITS[unit], "bytes")
    if not unit and amount.is_integer():
        return Capacity(amount, "blocks")
    raise BadCapacity(text)


def curve(points: int) -> list[Capacity]:
    """Return so many shares for a miss-ratio curve, evenly on a logarithmic scale up to all."""
    return [Capacity(float(share), "share") for share in np.geomspace(_CURVE_LEAST, 1.0, points)]
