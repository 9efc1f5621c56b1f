"""vLLM's own tiered offloading for an engine on CPUs, which vLLM keeps for those on GPUs.

Runs in the engine's environment: to measure it as a peer, and in the tests of tierd's tier. vLLM
refuses its spec where there is no GPU, only because its worker copies with CUDA streams; this one
copies with torch, at once. All else is vLLM's: the scheduler's side, the memory tier, and the
tiers below it.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CopyingWorker(OffloadingWorker):  # type: ignore[misc]  # vLLM is not always installed.
    """Copies blocks between the engine's memory and vLLM's region for offloaded ones.

    Shapes: a tensor of the engine [blocks, page_bytes]; its part of the region [chunks,
    blocks_per_chunk, page_bytes]. A group of layers has pages in some tensors, and may leave
    their ends unused.
    """

    def __init__(
        self, caches: CanonicalKVCaches, region: SharedOffloadRegion, blocks_per_chunk: int
    ) -> None:
        self._region = region
        self._blocks_per_chunk = blocks_per_chunk
        self._groups = caches.group_data_refs
        pages = [(one.tensor, one.page_size_bytes) for one in caches.tensors]
        self._engine = [tensor.view(torch.int8).view(-1, size) for tensor, size in pages]
        self._outside = [
            region.create_next_worker_view(blocks_per_chunk * size).unflatten(1, (-1, size))
            for _, size in pages
        ]
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        start_s, size = time.perf_counter(), 0
        for page, blocks, row, chunks in self._pairs(src_spec, dst_spec):
            row.index_copy_(0, chunks, page.index_select(0, blocks))
            size += len(blocks) * page.shape[1]
        return self._finish(job_id, size, start_s)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        start_s, size = time.perf_counter(), 0
        for page, blocks, row, chunks in self._pairs(dst_spec, src_spec):
            page.index_copy_(0, blocks, row.index_select(0, chunks))
            size += len(blocks) * page.shape[1]
        return self._finish(job_id, size, start_s)

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Every copy is done when it was asked for."""

    def shutdown(self) -> None:
        self._outside.clear()
        self._region.cleanup()

    def _finish(self, job_id: int, size: int, start_s: float) -> bool:
        took_s = time.perf_counter() - start_s
        self._finished.append(
            TransferResult(job_id, success=True, transfer_size=size, transfer_time=took_s)
        )
        return True

    def _pairs(
        self, engine: Any, outside: Any
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield pages of a tensor and which of them, and the rows that they belong to."""
        for refs, blocks, place, chunks in self._alike(engine, outside):
            for ref in refs:
                page = self._engine[ref.tensor_idx][:, : ref.page_size_bytes]
                row = self._outside[ref.tensor_idx][:, place, : ref.page_size_bytes]
                yield page, blocks, row, chunks

    def _alike(
        self, engine: Any, outside: Any
    ) -> Iterator[tuple[Sequence[Any], torch.Tensor, int, torch.Tensor]]:
        """Yield blocks of one group that have the same place in their chunks, and these."""
        per_chunk = self._blocks_per_chunk
        blocks = torch.from_numpy(engine.block_ids).long()
        chunks = torch.from_numpy(outside.chunk_ids).long()
        groups = zip(self._groups, engine.group_sizes, engine.block_indices, strict=True)
        for refs, count, first in groups:
            if not count:
                continue
            # A group's first block may be anywhere in its first chunk.
            at = first % per_chunk + torch.arange(count)
            for place in range(per_chunk):
                here = at % per_chunk == place
                if here.any():
                    yield refs, blocks[:count][here], place, chunks[at[here] // per_chunk]
            blocks, chunks = blocks[count:], chunks[int(at[-1]) // per_chunk + 1 :]


class OffloadOnCpu(TieringOffloadingSpec):  # type: ignore[misc]  # As above.
    """vLLM's tiering spec with a worker that needs no GPU."""

    _worker: Any

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
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
