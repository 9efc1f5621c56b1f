"""Runs many caches over one trace, in parallel processes that share it through a mapping.

Policies travel by name, so that every process makes its own. What to run, and what the outcomes
mean, is left to `study`.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from tierd_bench.simulate.bounds import run_belady
from tierd_bench.simulate.cache import Outcome, run_policy
from tierd_bench.simulate.references import References, open_references
from tierd_policies.registry import eviction

BELADY: Final = "belady"
"""Beside the names of policies: the bound, which knows the future."""

WINDOWS: Final = 100
"""Parts of a trace, equal in requests, for which what was saved is told."""

_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """One cache to run: over which part of the trace, under which policy, with how many blocks."""

    part: int
    policy: str
    capacity: int


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job. `saved` has the tokens saved up to the end of each window."""

    job: Job
    hits: int
    evictions: int
    cpu_s: float
    saved: tuple[int, ...]


def available_cores() -> int:
    """Return how many processes can run side by side."""
    return len(os.sched_getaffinity(0))


def run_jobs(
    parts: Sequence[References],
    jobs: Sequence[Job],
    processes: int,
    tell: Callable[[int], None],
) -> list[Result]:
    """Run all jobs and return their results in order; `tell` hears how many references are done.

    With one process everything runs in this one.
    """
    if processes == 1 or len(jobs) == 1:
        return _run_here(parts, jobs, tell)
    with TemporaryDirectory(prefix="tierd-simulate-") as folder:
        directories = [Path(folder) / str(part) for part in range(len(parts))]
        for directory, references in zip(directories, parts, strict=True):
            directory.mkdir()
            references.save(directory)
        return _run_in_processes(directories, jobs, min(processes, len(jobs)), tell)


def window_ends(requests: int) -> list[int]:
    """Return how many requests have come at the end of each window."""
    return [requests * (window + 1) // WINDOWS for window in range(WINDOWS)]


def _run_here(
    parts: Sequence[References], jobs: Sequence[Job], tell: Callable[[int], None]
) -> list[Result]:
    results = []
    done = 0

    def tell_on(at: int) -> None:
        tell(done + at)

    for job in jobs:
        results.append(_run(parts[job.part], job, tell_on))
        done += len(parts[job.part].blocks)
    return results


def _run_in_processes(
    directories: Sequence[Path], jobs: Sequence[Job], processes: int, tell: Callable[[int], None]
) -> list[Result]:
    # Not forked: the progress bar has a thread.
    context = multiprocessing.get_context("spawn")
    done, stop = RawArray("q", len(jobs)), RawValue("b", 0)
    given = (directories, done, stop)
    with ProcessPoolExecutor(processes, context, _Process.start, given) as pool:
        futures = [pool.submit(_Process.run, at, job) for at, job in enumerate(jobs)]
        try:
            _await(futures, lambda: tell(sum(done)))
        finally:
            # Also when interrupted: the pool would wait for every job under way.
            stop.value = 1
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _await(futures: Sequence[Future[Result]], tell: Callable[[], None]) -> None:
    running = set(futures)
    while running:
        ended, running = wait(running, _LOOK_S, FIRST_EXCEPTION)
        for future in ended:
            future.result()
        tell()


class _Process:
    """What a process of the pool keeps from one job to the next.

    It shares with the one that waits how many references each job has done, and whether to stop.
    """

    parts: tuple[References, ...] = ()
    done: Any = None
    stop: Any = None

    @classmethod
    def start(cls, directories: Sequence[Path], done: Any, stop: Any) -> None:
        # Ctrl-C reaches all processes of a terminal; the one that waits says what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cls.parts = tuple(open_references(directory) for directory in directories)
        cls.done, cls.stop = done, stop

    @classmethod
    def run(cls, at: int, job: Job) -> Result:
        def tell(references: int) -> None:
            cls.done[at] = references
            if cls.stop.value:
                raise InterruptedError(f"{job} is not wanted any more")

        references = cls.parts[job.part]
        result = _run(references, job, tell)
        cls.done[at] = len(references.blocks)
        return result


def _run(references: References, job: Job, tell: Callable[[int], None]) -> Result:
    outcome = _outcome(references, job, tell)
    saved = np.cumsum(references.tokens_saved(outcome.hits))
    upto = np.concatenate([np.zeros(1, np.int64), saved])[window_ends(references.requests)]
    return Result(
        job, int(outcome.hits.sum()), outcome.evictions, outcome.cpu_s, tuple(upto.tolist())
    )


def _outcome(references: References, job: Job, tell: Callable[[int], None]) -> Outcome:
    if job.policy == BELADY:
        return run_belady(references, job.capacity, tell)
    return run_policy(references, eviction(job.policy), job.capacity, tell)
