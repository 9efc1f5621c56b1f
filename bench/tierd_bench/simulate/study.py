"""A whole simulation, from references to a report: bounds, and policies at every size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tierd_bench.simulate.bounds import infinite_hits
from tierd_bench.simulate.capacities import Size
from tierd_bench.simulate.references import References
from tierd_bench.simulate.report import BoundPoint, Report, Run, TraceFacts
from tierd_bench.simulate.reuse import Reuse, measure_reuse
from tierd_bench.simulate.sampling import Estimate, Half, estimate, halves_of
from tierd_bench.simulate.sweep import BELADY, Job, Result, run_jobs, window_ends


@dataclass(frozen=True, slots=True)
class Study:
    """What to simulate: policies by name, capacities in blocks, and how.

    `sample_ratio` is the share of blocks that policies are run on, 1 for all. The bounds are
    always those of the whole trace.
    """

    policies: tuple[str, ...]
    capacities: tuple[Size, ...]
    sample_ratio: float = 1.0
    processes: int = 1


def simulate(
    references: References, facts: TraceFacts, study: Study, tell: Callable[[int, int], None]
) -> Report:
    """Run `study` and return its figures; `tell` hears how many references of how many are done."""
    sample = [] if study.sample_ratio == 1 else halves_of(references, study.sample_ratio)
    parts = [references, *sample]
    bounds = [Job(0, BELADY, size.blocks) for size in study.capacities]
    jobs = [*bounds, *(job for run in _runs(study) for job in _jobs_of(run, parts))]
    total = sum(len(part.blocks) for part in (*parts, *(parts[job.part] for job in jobs)))
    reuses = []
    done = 0
    for part in parts:
        reuses.append(measure_reuse(part, partial(_tell_on, tell, total, done)))
        done += len(part.blocks)
    results = run_jobs(parts, jobs, study.processes, partial(_tell_on, tell, total, done))
    figures = _Figures(facts, parts, reuses, {result.job: result for result in results})
    return Report(
        trace=facts,
        infinite_hit_rate=infinite_hits(references) / max(1, len(references.blocks)),
        bounds=tuple(figures.bound(size) for size in study.capacities),
        runs=tuple(figures.run(policy, size) for policy, size in _runs(study)),
        reuse=reuses[0],
        window_ends_s=_window_ends_s(references),
        sample_ratio=study.sample_ratio,
    )


class _Figures:
    """Makes the rows of a report out of what the jobs came to."""

    def __init__(
        self,
        facts: TraceFacts,
        parts: Sequence[References],
        reuses: Sequence[Reuse],
        results: Mapping[Job, Result],
    ) -> None:
        self._facts = facts
        self._parts = parts
        self._reuses = reuses
        self._results = results
        self._whole = parts[0]
        self._count = max(1, len(parts[0].blocks))

    def bound(self, size: Size) -> BoundPoint:
        """Return the bounds at one capacity."""
        return BoundPoint(
            capacity_blocks=size.blocks,
            capacity_share=size.share,
            belady=self._results[Job(0, BELADY, size.blocks)].hits / self._count,
            chain_lru=self._reuses[0].lru_hits(size.blocks) / self._count,
        )

    def run(self, policy: str, size: Size) -> Run:
        """Return what a policy came to at one capacity."""
        jobs = _jobs_of((policy, size), self._parts)
        results = [self._results[job] for job in jobs]
        bound = self.bound(size)
        exact = results[0] if len(self._parts) == 1 else None
        rate = self._estimate(results, bound) if exact is None else self._rate(exact)
        cpu_s = sum(result.cpu_s for result in results)
        references = sum(len(self._parts[job.part].blocks) for job in jobs)
        saved = () if exact is None else exact.saved
        return Run(
            policy=policy,
            capacity_blocks=size.blocks,
            capacity_share=size.share,
            capacity_bytes=size.blocks * self._facts.block_tokens * self._facts.bytes_per_token,
            hit_rate=rate.hit_rate,
            optimum_share=rate.hit_rate / bound.belady if bound.belady else 1.0,
            error=rate.error if exact is None else None,
            token_hit_rate=saved[-1] / max(1, self._facts.prompt_tokens) if saved else None,
            tokens_saved=saved[-1] if saved else None,
            evictions=None if exact is None else exact.evictions,
            references_per_s=references / cpu_s if cpu_s else 0.0,
            saved=saved,
        )

    def _rate(self, result: Result) -> Estimate:
        return Estimate(result.hits / self._count, 0.0)

    def _estimate(self, results: Sequence[Result], bound: BoundPoint) -> Estimate:
        halves = []
        for result in results:
            part = self._parts[result.job.part]
            lru_hits = self._reuses[result.job.part].lru_hits(result.job.capacity)
            halves.append(Half(len(part.blocks), part.unique_blocks, result.hits, lru_hits))
        first_use_share = self._whole.unique_blocks / self._count
        return estimate(halves, first_use_share, bound.chain_lru)


def _runs(study: Study) -> list[tuple[str, Size]]:
    return [(policy, size) for policy in study.policies for size in study.capacities]


def _jobs_of(run: tuple[str, Size], parts: Sequence[References]) -> list[Job]:
    """Return what has to be run for one run: the whole trace, or each half of the sample."""
    policy, size = run
    whole, *sample = parts
    if not sample:
        return [Job(0, policy, size.blocks)]
    return [
        Job(number, policy, max(1, round(size.blocks * half.unique_blocks / whole.unique_blocks)))
        for number, half in enumerate(sample, start=1)
    ]


def _window_ends_s(references: References) -> tuple[float, ...]:
    return tuple(references.times_s[[max(0, n - 1) for n in window_ends(references.requests)]])


def _tell_on(tell: Callable[[int, int], None], total: int, before: int, done: int) -> None:
    tell(before + done, total)
