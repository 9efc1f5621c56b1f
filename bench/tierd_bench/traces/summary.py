"""What a generated trace came out as, in the terms of the workload it was made of."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from tierd_bench.traces.generate import Generated, Turn
from tierd_bench.traces.requests import prefix_length
from tierd_bench.traces.workload import Workload

MEAN_TOLERANCE: Final = 0.02
HIT_RATE_TOLERANCE: Final = 0.002


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over sessions, `append`, `output` and `context` of means over a session's turns.

    `hit_rate_of_means` is context / (context + append), as papers state it: what came before,
    outputs included, is taken to be cached. `context_of_requests` is the mean over all requests,
    in which sessions of many turns weigh more. `hit_rate` is the share of block references that an
    infinite cache hits, over the whole trace and with prompts alone in it: what a replay shows.
    """

    sessions: int
    requests: int
    turns: float
    append: float
    output: float
    context: float
    context_of_requests: float
    total: float
    hit_rate_of_means: float
    hit_rate: float
    references: int
    unique_blocks: int

    def misses(self, workload: Workload) -> list[str]:
        """Return each figure that is further from `workload` than the tolerances, in words.

        Means may be 2 % off, hit rates 0.2 points. A workload without a hit rate has none to
        miss; compaction shortens contexts and totals, and so do blocks shared by sessions.
        """
        pairs = {
            "turns": (self.turns, workload.turns),
            "append": (self.append, workload.append),
            "output": (self.output, workload.output),
            "context": (self.context, workload.context),
            "total": (self.total, workload.mean_total),
        }
        found = [
            f"{name} is {got:.5g}, wanted {wanted:.5g}"
            for name, (got, wanted) in pairs.items()
            if abs(got - wanted) > MEAN_TOLERANCE * wanted
        ]
        rates = {"hit rate": self.hit_rate, "hit rate of means": self.hit_rate_of_means}
        wanted = workload.hit_rate
        if wanted is not None:
            found += [
                f"{name} is {100 * got:.2f} %, wanted {100 * wanted:.2f} %"
                for name, got in rates.items()
                if abs(got - wanted) > HIT_RATE_TOLERANCE
            ]
        return found


def summarize(generated: Generated) -> Summary:
    """Return the figures of a generated trace."""
    sessions: dict[str, list[Turn]] = {}
    for turn in generated.turns:
        sessions.setdefault(turn.session, []).append(turn)
    per_session = np.array(
        [
            [
                len(turns),
                np.mean([turn.append for turn in turns]),
                np.mean([turn.output for turn in turns]),
                np.mean([turn.context for turn in turns]),
                turns[-1].prompt + turns[-1].output,
            ]
            for turns in sessions.values()
        ]
    )
    turns, append, output, context, total = per_session.mean(axis=0).tolist()
    references, hits, unique = _replayed(generated)
    return Summary(
        sessions=len(sessions),
        requests=len(generated.turns),
        turns=turns,
        append=append,
        output=output,
        context=context,
        context_of_requests=float(np.mean([turn.context for turn in generated.turns])),
        total=total,
        hit_rate_of_means=context / (context + append),
        hit_rate=hits / max(1, references),
        references=references,
        unique_blocks=unique,
    )


def _replayed(generated: Generated) -> tuple[int, int, int]:
    """Return (references, hits, unique blocks) without keeping any turn's blocks."""
    seen: set[int] = set()
    references = hits = 0
    for turn in generated.turns:
        blocks = generated.blocks(turn)
        prefix = prefix_length(seen, blocks)
        references += len(blocks)
        hits += prefix
        seen.update(blocks[prefix:])
    return references, hits, len(seen)
