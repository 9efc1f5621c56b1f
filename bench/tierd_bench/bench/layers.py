"""The row of a fetch that is consumed layer by layer: how soon an engine can start."""

import time
from typing import Final

from tierd_bench.bench.disk import ColdChains
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import WAIT_S, NotMeasured, Stage
from tierd_bench.bench.timing import take_turns

_MS: Final = 1000


def first_layer(stage: Stage) -> Figures:
    """Return the time until the first layer of a cold chain is here, verified.

    Beside it is a fetch of a whole one, by whichever routes are best; the two take turns.
    """
    sizes = stage.sizes
    cold = ColdChains(stage, sizes.layer_chains, sizes.layer_chain)
    all_ms: list[float] = []

    def first() -> float:
        chain = cold.take()
        start = time.perf_counter()
        with stage.namespace.fetch_layers(chain, cold.target, deadline_s=WAIT_S) as fetch:
            times = [time.perf_counter() - start for _ in fetch.layers()]
        if fetch.blocks < len(chain) or len(times) < stage.scene.layers:
            raise NotMeasured(f"{len(times)} layers of {fetch.blocks} blocks came")
        cold.verify(chain)
        all_ms.append(_MS * times[-1])
        return _MS * times[0]

    def whole() -> float:
        cold.fetch()
        return _MS * cold.seconds

    firsts, wholes = take_turns(sizes.disk_runs, stage.tell, first, whole)
    note = f"{sizes.layer_chain} blocks of {stage.scene.layers} layers off the disk"
    others = {"all layers": tuple(all_ms[-sizes.disk_runs :])}
    return Figures("ms", firsts, wholes, "a fetch of the whole chain", note, others)
