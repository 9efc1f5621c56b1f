"""vLLM's tiering without an engine: its real managers, told what to do by JSON lines.

    python -m tests.vllm.tier_child < commands > answers

Run by the environment that has vLLM; `tests.vllm.test_tier_contract` is the other end. Blocks are
rows of bytes that follow from their keys, so that whoever finds one can say whether it is right.
"""

import json
import os
import sys
import uuid
from collections.abc import Sequence
from threading import Event
from typing import Any

from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from tests.vllm.tier_rows import CHUNK_TOKENS, ROW_BYTES, key_of, row_of


class Tiers:
    """What a scheduler of vLLM has of offloading, with one tier beside the first."""

    def __init__(self, groups: int, rows: int, tier: dict[str, Any]) -> None:
        spec = TieringOffloadingSpec(_config(groups, rows, tier))
        self._manager = spec.get_manager()
        self._memory = self._manager.primary_tier.get_kv_memoryview().cast("B")
        self._contexts: dict[str, Any] = {}
        self._keys: dict[str, list[bytes]] = {}

    def request(self, id: str, seed: int, blocks: int) -> None:
        """Say that a request came. Those of one seed begin alike."""
        keys = [key_of(seed, place) for place in range(blocks)]
        context = ReqContext(req_id=id)
        for at, key in enumerate(keys, start=1):
            context.set_offload_key_position(key, at * CHUNK_TOKENS)
        self._manager.on_new_request(context)
        self._contexts[id], self._keys[id] = context, keys

    def store(self, id: str, places: Sequence[int]) -> int:
        """Offer these blocks of a request; return how many the first tier did not have."""
        context, keys = self._contexts[id], [self._keys[id][at] for at in places]
        output = self._manager.prepare_store(keys, context)
        new = list(output.keys_to_store)
        for key, row in zip(new, output.store_spec.chunk_ids, strict=True):
            self._memory[row * ROW_BYTES : (row + 1) * ROW_BYTES] = row_of(key)
        if new:
            self._manager.complete_store(set(new), context)
        return len(new)

    def look(self, id: str) -> list[str]:
        """Ask for the blocks of a request as the scheduler does, until one is missing."""
        found = []
        for key in self._keys[id]:
            found.append(self._manager.lookup(key, self._contexts[id]))
            if found[-1] is LookupResult.MISS:
                break
        return [each.name for each in found]

    def look_at(self, id: str, places: Sequence[int]) -> list[str]:
        """Ask for some blocks of a request, as the scheduler does with windows."""
        keys = [self._keys[id][at] for at in places]
        return [self._manager.lookup(key, self._contexts[id]).name for key in keys]

    def right(self, id: str, places: Sequence[int]) -> list[bool]:
        """Say of blocks that were found whether their bytes are."""
        context, keys = self._contexts[id], [self._keys[id][at] for at in places]
        rows = self._manager.prepare_load(keys, context).chunk_ids
        answers = [
            bytes(self._memory[row * ROW_BYTES : (row + 1) * ROW_BYTES]) == row_of(key)
            for key, row in zip(keys, rows, strict=True)
        ]
        self._manager.complete_load(keys, context)
        return answers

    def step(self) -> bool:
        """End a step of the scheduler; say whether anything is under way."""
        self._manager.on_schedule_end(ScheduleEndContext((), ()))
        Event().wait(0.005)
        return bool(self._manager.has_pending_work())

    def under_way(self) -> int:
        """Return how many loads and stores there are."""
        return len(self._manager._transfer_jobs)  # noqa: SLF001

    def finish(self, id: str) -> None:
        self._manager.on_request_finished(self._contexts[id])

    def forget(self) -> None:
        """Empty the first tier, as vLLM does when the weights change."""
        self._manager.reset_cache()

    def close(self) -> None:
        self._memory.release()
        self._manager.shutdown()


def _config(groups: int, rows: int, tier: dict[str, Any]) -> Any:
    entry = {"type": "TierdTier", "module_path": "tierd_client.engines.vllm.tier", **tier}
    names = [f"layers.{at}" for at in range(groups)]
    return OffloadingConfig(
        groups=tuple(OffloadingGroupConfig(CHUNK_TOKENS, (name,), 0) for name in names),
        worker_kv_bytes_per_block=ROW_BYTES,
        enable_kv_cache_events=False,
        extra_config={"cpu_bytes_to_use": rows * ROW_BYTES, "secondary_tiers": [entry]},
        engine_id=str(uuid.uuid4()),
        model=OffloadingModelConfig("a model", "bfloat16"),
        cache=OffloadingCacheConfig(CHUNK_TOKENS, 1),
        parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, False),
        kv_cache_layout="LBHNC",
    )


def main() -> None:
    # Libraries print, too: what they say goes where the log goes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    made: dict[str, Tiers] = {}
    for line in sys.stdin:
        which, name, arguments = json.loads(line)
        try:
            if name == "open":
                made[which] = Tiers(**arguments)
                answer = None
            else:
                answer = getattr(made[which], name)(**arguments)
        except Exception as error:  # noqa: BLE001  # The test says which there should be.
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
