"""vLLM's tiered offloading for an engine on CPUs, which vLLM itself keeps for those on GPUs.

Only the copies between the engine's memory and vLLM's own first tier are made here. What the
scheduler does with tiers is vLLM's, unchanged.
"""

from typing import Any

from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuTieringSpec(TieringOffloadingSpec):  # type: ignore[misc]  # vLLM has no types here.
    """`TieringOffloadingSpec` with a worker that copies with the CPU."""

    _worker: Any

    def get_worker(self, kv_caches: Any) -> Any:
        if self._worker is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = CopyingWorker(kv_caches, region, self.blocks_per_chunk)
        return self._worker


class CopyingWorker(OffloadingWorker):  # type: ignore[misc]
    """Copies at once, and says so when it is asked next.

    Shapes: an engine's tensor [blocks, page_bytes], its part of the region [chunks,
    blocks_per_chunk * page_bytes].
    """

    def __init__(self, kv_caches: Any, region: Any, blocks_per_chunk: int) -> None:
        self._region = region
        self._blocks_per_chunk = blocks_per_chunk
        self._groups = kv_caches.group_data_refs
        self._pages = [each.tensor for each in kv_caches.tensors]
        self._chunks = [
            region.create_next_worker_view(each.page_size_bytes * blocks_per_chunk)
            for each in kv_caches.tensors
        ]
        self._finished: list[Any] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        for page, chunk in self._pairs(src_spec, dst_spec):
            chunk.copy_(page)
        self._finished.append(TransferResult(job_id, success=True))
        return True

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        for page, chunk in self._pairs(dst_spec, src_spec):
            page.copy_(chunk)
        self._finished.append(TransferResult(job_id, success=True))
        return True

    def get_finished(self) -> list[Any]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        pass

    def shutdown(self) -> None:
        self._chunks.clear()
        self._region.cleanup()

    def _pairs(self, engine: Any, tier: Any) -> Any:
        """Yield each block's place in the engine's memory, and in the tier's."""
        blocks, chunks = list(engine.block_ids), list(tier.chunk_ids)
        for refs, size, first in zip(
            self._groups, engine.group_sizes, engine.block_indices, strict=True
        ):
            for at in range(first, first + size):
                block = blocks.pop(0)
                # A group's first block may be anywhere in its first chunk.
                chunk = chunks[at // self._blocks_per_chunk - first // self._blocks_per_chunk]
                for ref in refs:
                    page = self._pages[ref.tensor_idx][block, : ref.page_size_bytes]
                    row = self._chunks[ref.tensor_idx][chunk]
                    start = at % self._blocks_per_chunk * (len(row) // self._blocks_per_chunk)
                    yield page, row[start : start + ref.page_size_bytes]
            if size:
                last = (first + size - 1) // self._blocks_per_chunk
                del chunks[: last - first // self._blocks_per_chunk + 1]
