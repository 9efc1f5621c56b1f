"""vLLM's own tiered offloading with tierd as its second tier: no connector of ours is involved.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
      "kv_connector_extra_config": {
        "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 8589934592, "block_size": 256,
        "secondary_tiers": [{"type": "tierd"}]}}'

Where plugins are switched off its type is "TierdTier", with a `module_path` of this module's name.

vLLM copies between the GPU and its own memory of the CPU; what is here copies between that and
the daemon. One of vLLM's chunks (`block_size` tokens, all layers, all workers) is one block. All
of this runs in the process of vLLM's scheduler, which must not wait: questions and copies are
made in threads. `chunks.Settings` lists what a tier's entry in `secondary_tiers` may have.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    OffloadPolicy,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

from tierd.core.addresses import parse_address
from tierd_client.engines.link import Link
from tierd_client.engines.vllm.chunks import Key, Rows, Settings, blocks_of, layout_of

_PATIENCE_S: Final = 0.5
"""How long a request waits for one answer about what is held, before it is computed."""
_YIELD_S: Final = 0.001
"""What a step gives to threads that a request waits for."""
_LOAD_THREADS: Final = 2
_STORES_MAX: Final = 64
"""Stores under way or waiting. Each keeps chunks of vLLM's memory in place: more are declined."""

log = logging.getLogger("vllm.tierd")


@dataclass(slots=True)
class _Job:
    """A load or a store in a thread. Its future has the keys that are done, and the seconds.

    After `until_s` nothing more is begun for it: chunks of vLLM's memory are held for its sake.
    """

    number: int
    rows: Mapping[Key, int]
    context: Any
    is_load: bool
    until_s: float
    future: "Future[tuple[list[Key], float]] | None" = None


class TierdTier(SecondaryTierManager):
    """A secondary tier of vLLM's `TieringOffloadingSpec`, kept by a tierd daemon.

    Shapes: `primary_kv_view` [chunks, row_bytes]: a chunk's row is what is stored, padding
    included, for all workers together. So a block has one part, whatever the parallelism; who may
    exchange rows is what vLLM's own file tier says, and the fingerprint covers that, the row's
    size, vLLM's version and the platform.

    Chains: the daemon finds a block only behind those before it. vLLM asks by single keys, but
    its request knows the others, so a block is stored and found with its chain, one message for
    all. For that every request offers all of its blocks, and not only the new ones: a daemon that
    lost the first ones gets them again. Where a model has several groups of layers, blocks of
    some groups are stored with gaps, so each block is a chain of its own. The answers are the
    same, and so is the number of messages, but the daemon does not know which others a block
    needs: it evicts the last ones of a message first, and that is all.

    Concurrency: vLLM's calls all come from the scheduler's thread, and none waits for the daemon
    but `drain_jobs`, `shutdown`, and for a millisecond a step `on_schedule_end`, while a request
    waits. A daemon that is away holds nothing, and gets nothing. One that does not answer costs a
    request half a second where it was asked what it holds, and `deadline_s` where it was loading.

    Raises:
        InvalidRequest: a setting cannot be; see `Settings`.
    """

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **given: Any,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self._settings = Settings.of(given)
        local = bool(parse_address(self._settings.address).path)
        self.locality = Locality(self._settings.locality or ("LOCAL" if local else "REMOTE"))
        self._bytes = primary_kv_view.cast("B")
        self.layout = layout_of(offloading_spec, self.block_size_bytes, self._settings)
        self._link = Link(self._settings.address, "vLLM's tier", [self.layout])
        self._blocks = blocks_of(offloading_spec, self._link, self.layout, self._settings)
        self._jobs: dict[int, _Job] = {}
        self._news = threading.Event()
        self._is_waited_for = False
        self._loads = ThreadPoolExecutor(_LOAD_THREADS, "tierd-load")
        self._stores = ThreadPoolExecutor(1, "tierd-store")
        self._lookups = _Lookups(self, self._news)

    def on_new_request(self, req_context: Any) -> Any:
        """Ask for all blocks of a request where they are chained, and for the new ones if not."""
        if self._blocks.needs_all:
            return RequestOffloadingContext(policy=OffloadPolicy.REQUEST_LEVEL)
        return RequestOffloadingContext()

    def lookup(self, key: Key, req_context: Any) -> Any:
        """Say whether the block is held, or that it has to be asked again in the next step."""
        found = self._lookups.lookup(key, req_context)
        if found is None and not self._lookups.is_stuck():
            self._is_waited_for = True
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def on_schedule_end(self, context: Any) -> None:
        """Send what was asked in this step, all in one.

        A scheduler that has nothing else to do asks again at once, and so often that no thread
        gets the interpreter: while a request waits, they get it here.
        """
        self._lookups.flush()
        if self._is_waited_for or any(job.is_load for job in self._jobs.values()):
            self._news.wait(_YIELD_S)
            self._news.clear()
        self._is_waited_for = False

    def on_request_finished(self, req_context: Any) -> None:
        """Forget what is known for a request."""
        self._lookups.cleanup(req_context.req_id)

    def submit_load(self, job_metadata: Any) -> None:
        """Start fetching blocks into their rows."""
        job = self._job(job_metadata, is_load=True)
        job.future = self._loads.submit(self._load, job)
        job.future.add_done_callback(lambda _: self._news.set())

    def submit_store(self, job_metadata: Any) -> None:
        """Start publishing blocks out of their rows, unless too many wait for that."""
        stores = sum(1 for job in self._jobs.values() if not job.is_load)
        job = self._job(job_metadata, is_load=False)
        if stores < _STORES_MAX:
            job.future = self._stores.submit(self._store, job)

    def get_finished_jobs(self) -> Iterable[Any]:
        """Return what came of jobs since the last call. Blocks that did not come are misses."""
        over = [job for job in self._jobs.values() if job.future is None or job.future.done()]
        for job in over:
            del self._jobs[job.number]
        return [self._result(job) for job in over]

    def drain_jobs(self) -> None:
        """Return when no thread touches vLLM's memory."""
        wait([job.future for job in self._jobs.values() if job.future is not None])

    def shutdown(self) -> None:
        """End threads and session. What is being copied is finished, what waits is not begun."""
        for pool in (self._loads, self._stores):
            pool.shutdown(wait=True, cancel_futures=True)
        # First of the two: what is still asked is then answered at once.
        self._link.close()
        self._lookups.shutdown()
        self._bytes.release()

    # ---- in threads

    def find(self, keys: Sequence[Key], context: Any) -> set[Key]:
        """Return those of `keys` that are held."""
        until_s = time.monotonic() + self._settings.deadline_s
        return self._blocks.find(keys, context, until_s)

    def _load(self, job: _Job) -> tuple[list[Key], float]:
        started_s = time.monotonic()
        here = self._blocks.load(self._rows(job), job.context, job.until_s)
        return here, time.monotonic() - started_s

    def _store(self, job: _Job) -> tuple[list[Key], float]:
        started_s = time.monotonic()
        kept = self._blocks.store(self._rows(job), job.context, job.until_s)
        return kept, time.monotonic() - started_s

    # ---- how

    def _job(self, asked: Any, *, is_load: bool) -> _Job:
        rows = {key: int(row) for key, row in zip(asked.keys, asked.chunk_ids, strict=True)}
        until_s = time.monotonic() + self._settings.deadline_s
        job = _Job(asked.job_id, rows, asked.req_context, is_load, until_s)
        self._jobs[job.number] = job
        return job

    def _rows(self, job: _Job) -> Rows:
        size = self.block_size_bytes
        return {key: self._bytes[row * size : (row + 1) * size] for key, row in job.rows.items()}

    def _result(self, job: _Job) -> Any:
        done, seconds = _outcome(job)
        if job.is_load:
            self._lookups.mark_miss(job.rows.keys() - set(done))
        return JobResult(
            job.number,
            success=len(done) == len(job.rows),
            successful_keys=tuple(done) or None,
            transfer_time=seconds,
            transfer_bytes=len(done) * self.block_size_bytes,
        )


def _outcome(job: _Job) -> tuple[list[Key], float]:
    """Return what was done for a job that is over, and in how many seconds."""
    future = job.future
    if future is None or future.cancelled():
        return [], 0.0
    error = future.exception()
    if error is not None:
        log.error("a block went nowhere", exc_info=error)
        return [], 0.0
    return future.result()


class _Lookups(AsyncLookupManager):
    """Answers kept as long as their requests; vLLM's own, which asks in a thread.

    `is_stuck` is for the scheduler: the thread has waited for one answer for too long.
    """

    def __init__(self, tier: TierdTier, news: threading.Event) -> None:
        self._tier = tier
        self._asked_s: float | None = None
        self._news = news
        super().__init__(tier_type=tier.tier_type)

    def batch_lookup(self, keys: list[Key], req_context: Any) -> Iterable[bool]:
        self._asked_s = time.monotonic()
        try:
            found = self._tier.find(keys, req_context)
        finally:
            self._asked_s = None
            self._news.set()
        return [key in found for key in keys]

    def is_stuck(self) -> bool:
        asked_s = self._asked_s
        return asked_s is not None and time.monotonic() - asked_s > _PATIENCE_S
