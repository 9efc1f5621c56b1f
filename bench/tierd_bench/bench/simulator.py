"""The row of the simulator: block references a second of processor time, under chain LRU."""

import time
from collections import OrderedDict
from typing import Final

from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import SEED, Stage
from tierd_bench.bench.timing import take_turns
from tierd_bench.simulate.cache import run_policy
from tierd_bench.simulate.references import references_of
from tierd_bench.traces import PRESETS
from tierd_bench.traces.generate import generate
from tierd_policies.chain_lru import ChainLRU

_PRESET: Final = "dualpath-32k"
_CAPACITY_RATIO: Final = 0.1


def simulator_rate(stage: Stage) -> Figures:
    """Return millions of block references a second and core, in a cache of a tenth of all."""
    workload = PRESETS[_PRESET].workload
    trace = generate(workload, stage.sizes.simulated_sessions, SEED).trace()
    references = references_of(trace, 1, SEED)
    capacity = max(1, int(references.unique_blocks * _CAPACITY_RATIO))
    count = len(references.blocks)

    def simulate() -> float:
        outcome = run_policy(references, ChainLRU, capacity, lambda done: None)
        return count / outcome.cpu_s / 1e6

    def touch() -> float:
        """Move every referenced block to the end of a dict: the least that LRU does."""
        order: OrderedDict[int, None] = OrderedDict()
        blocks = references.blocks.tolist()
        begun_ns = time.process_time_ns()
        for block in blocks:
            order[block] = None
            order.move_to_end(block)
        return count / (time.process_time_ns() - begun_ns) * 1e3

    values, limits = take_turns(stage.sizes.disk_runs, stage.tell, simulate, touch)
    note = f"{count} references of {_PRESET}, generated, {capacity} of {references.unique_blocks}"
    return Figures("M refs/s", values, limits, "a loop of touches of an OrderedDict", note)
