"""What a simulation's page says of a report: the runs it picks, and figures as words."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from tierd.core.units import format_bytes
from tierd_bench.simulate.report import BoundPoint, Report, Run

_SPACE: Final = "\u00a0"
"""A number and its unit stay on one line."""


def block_bytes(report: Report) -> int:
    """Return the bytes of a block."""
    return report.trace.block_tokens * report.trace.bytes_per_token


def points_of(report: Report) -> list[BoundPoint]:
    """Return the capacities, smallest first."""
    return sorted(report.bounds, key=lambda point: point.capacity_blocks)


def runs_by_policy(report: Report) -> dict[str, list[Run]]:
    """Return the runs of each policy, smallest capacity first."""
    found: dict[str, list[Run]] = {run.policy: [] for run in report.runs}
    for run in sorted(report.runs, key=lambda run: run.capacity_blocks):
        found[run.policy].append(run)
    return found


def runs_at(report: Report, point: BoundPoint) -> dict[str, Run]:
    """Return the run of each policy at one capacity."""
    return {run.policy: run for run in report.runs if run.capacity_blocks == point.capacity_blocks}


def telling(report: Report) -> BoundPoint:
    """Return the capacity at which a policy is furthest below the optimum, which tells most."""

    def gap(point: BoundPoint) -> float:
        return point.belady - min(run.hit_rate for run in runs_at(report, point).values())

    return max(report.bounds, key=gap)


def half_reused(report: Report) -> int:
    """Return the reuse distance, in blocks, that half of all repeated uses do not exceed."""
    hits = np.cumsum(report.reuse.counts)
    return int(np.searchsorted(hits, hits[-1] / 2))


def capacity_words(report: Report, point: BoundPoint) -> str:
    """Return a capacity as a share, and as bytes."""
    size = format_bytes(point.capacity_blocks * block_bytes(report))
    return f"{share(point.capacity_share)} of the unique blocks ({size})"


def error_words(report: Report) -> str:
    """Return what a caption has to say of a sample, nothing without one."""
    if report.sample_ratio == 1:
        return ""
    return (
        f" Policies were run on {share(report.sample_ratio)} of the blocks; the bars are about "
        "how far off that may be."
    )


def names_of(names: Iterable[str]) -> str:
    """Return names as one reads them; of more than three only how many."""
    found = list(names)
    if len(found) > 3:
        return f"{len(found)} policies"
    return " and ".join(filter(None, (", ".join(found[:-1]), found[-1])))


def share(part: float) -> str:
    """Return a share of 1 that was asked for in percent."""
    return f"{100 * part:.3g}{_SPACE}%"


def percent(part: float) -> str:
    """Return a share of 1 that was found in percent."""
    return f"{100 * part:.1f}{_SPACE}%"


def count(number: int) -> str:
    """Return a number in some four digits."""
    for step, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= step:
            return f"{number / step:.4g}{_SPACE}{unit}"
    return f"{number:,}"


def seconds(milliseconds: float) -> str:
    """Return a time in the unit that reads best."""
    if milliseconds < 1000:
        return f"{milliseconds:.3g}{_SPACE}ms"
    return f"{milliseconds / 1000:.3g}{_SPACE}s"
