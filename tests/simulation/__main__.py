"""Runs many seeds: `python -m tests.simulation --seeds 10000 --first 0 --json FILE`.

Stops at the first seed that fails, with its last events. A line is added to FILE either way.
"""

import argparse
import json
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tests.simulation.run import run_seed

_TOLD_EVERY = 500


@dataclass(slots=True)
class Totals:
    """What the seeds of a run came to, all together."""

    seeds: int = 0
    steps: int = 0
    reads: int = 0
    blocks_read: int = 0
    misses: int = 0
    spoilt: int = 0
    recoveries: int = 0
    failures: int = 0


def main() -> int:
    """Return the process's exit status: 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    commit, started_s = _commit(), perf_counter()
    totals = Totals()
    for seed in range(options.first, options.first + options.seeds):
        _run(seed, totals)
        if totals.failures:
            break
        if totals.seeds % _TOLD_EVERY == 0:
            _say(f"{totals.seeds} seeds, {totals.steps} steps")
    seconds = round(perf_counter() - started_s, 1)
    _say(f"{totals.seeds} seeds, {totals.steps} steps, {totals.failures} failures, {seconds} s")
    if options.json is not None:
        _add_line(options.json, commit, options.first, totals, seconds)
    return 1 if totals.failures else 0


def _run(seed: int, totals: Totals) -> None:
    totals.seeds += 1
    try:
        outcome = run_seed(seed)
    except (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        totals.failures += 1
        traceback.print_exc()
        return
    totals.steps += outcome.steps
    totals.reads += outcome.reads
    totals.blocks_read += outcome.blocks_read
    totals.misses += outcome.misses
    totals.spoilt += outcome.spoilt
    totals.recoveries += outcome.recoveries


def _add_line(path: Path, commit: str, first: int, totals: Totals, seconds: float) -> None:
    line = {
        "commit": commit,
        "first": first,
        "seeds": totals.seeds,
        "steps": totals.steps,
        "reads": totals.reads,
        "blocks_read": totals.blocks_read,
        "misses": totals.misses,
        "spoilt": totals.spoilt,
        "recoveries": totals.recoveries,
        "failures": totals.failures,
        "seconds": seconds,
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
