"""vLLM's own tiered offloading on a machine without a GPU, to measure it as a peer.

Runs in the engine's environment. vLLM refuses this spec where there is no GPU, only because its
worker copies with CUDA streams; this one copies with torch, at once. All else is vLLM's: the
scheduler's side, the memory tier, and the tier of files below it.
"""

import time
from typing import Any

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CopyingWorker(OffloadingWorker):  # type: ignore[misc]  # vLLM is not always installed.
    """Copies blocks between the engine's memory and vLLM's region for offloaded ones."""

    def __init__(self, caches: CanonicalKVCaches, region: SharedOffloadRegion) -> None:
        self._region = region
        pages = [(one.tensor, one.page_size_bytes) for one in caches.tensors]
        self._engine = [tensor.view(torch.int8).view(-1, size) for tensor, size in pages]
        self._outside = [region.create_next_worker_view(size) for _, size in pages]
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, self._engine, src_spec, self._outside, dst_spec)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, self._outside, src_spec, self._engine, dst_spec)

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Every copy is done when it was asked for."""

    def shutdown(self) -> None:
        self._outside.clear()
        self._region.cleanup()

    def _copy(
        self,
        job_id: int,
        sources: list[torch.Tensor],
        source: Any,
        targets: list[torch.Tensor],
        target: Any,
    ) -> bool:
        start_s = time.perf_counter()
        from_ids = torch.from_numpy(source.block_ids).long()
        to_ids = torch.from_numpy(target.block_ids).long()
        for read, written in zip(sources, targets, strict=True):
            written.index_copy_(0, to_ids, read.index_select(0, from_ids))
        size = len(from_ids) * sum(each.shape[1] for each in sources)
        took_s = time.perf_counter() - start_s
        self._finished.append(
            TransferResult(job_id, success=True, transfer_size=size, transfer_time=took_s)
        )
        return True


class OffloadOnCpu(TieringOffloadingSpec):  # type: ignore[misc]  # As above.
    """vLLM's tiering spec with a worker that needs no GPU. One engine block is one chunk."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._copier: CopyingWorker | None = None

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        assert self.blocks_per_chunk == 1, self.blocks_per_chunk
        if self._copier is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=0,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._copier = CopyingWorker(kv_caches, region)
        return self._copier
