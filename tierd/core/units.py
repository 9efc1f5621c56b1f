"""Units and rounding. Inside tierd bytes are `int` and time is `int` nanoseconds, monotonic."""

from typing import Final

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30

PAGE_BYTES: Final = 4096
"""Alignment of every slot and of every O_DIRECT transfer."""

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

_STEPS = ((GiB << 10, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB"))


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def format_bytes(count: int) -> str:
    """Return `count` bytes for people, such as `1.5 GiB`."""
    for step, unit in _STEPS:
        if count >= step:
            return f"{count / step:.4g} {unit}"
    return f"{count} B"
