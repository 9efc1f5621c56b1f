"""vLLM's connector interface, handed on to the side of the scheduler or of the worker."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from tierd.core.layouts import LayoutSpec
from tierd_client.engines.vllm.layout import Place, Unsuited, reason_against, stage_of
from tierd_client.engines.vllm.messages import Done, Greeting, Work
from tierd_client.engines.vllm.scheduler import SchedulerSide
from tierd_client.engines.vllm.settings import keep_requests_alive, settings_of
from tierd_client.engines.vllm.stats import Stats
from tierd_client.engines.vllm.worker import WorkerSide

log = logging.getLogger("vllm.tierd")


class TierdConnector(KVConnectorBase_V1, SupportsHMA):
    """KV blocks of an engine in tierd, found again by prefix after whatever restarts.

    Where tierd cannot keep an engine's cache, it says why, once, and the engine runs without: no
    hits and no errors. So it does while the daemon is away.

    Raises:
        InvalidRequest: `kv_connector_extra_config` has a key or a value that it cannot have.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._settings = settings_of(self._kv_transfer_config)
        if role == KVConnectorRole.SCHEDULER:
            keep_requests_alive(self._kv_transfer_config)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._greeting = Greeting(None)
        self._reason = reason_against(vllm_config, kv_cache_config)
        if self._reason and role == KVConnectorRole.SCHEDULER:
            log.warning("tierd keeps nothing of this engine's cache: %s", self._reason)

    @property
    def requires_kv_delivery(self) -> bool:
        """Whether a save must not be lost: a lost one is only computed again."""
        return False

    # ---- the worker's side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Take the engine's pages, and work out what their blocks are."""
        if self._reason:
            return
        tensor, pipeline = get_tp_group(), get_pp_group()
        place = Place(
            tensor.rank_in_group,
            tensor.world_size,
            pipeline.rank_in_group,
            pipeline.world_size,
        )
        config, caches = self._vllm_config, self._kv_cache_config
        try:
            stage = stage_of(self._settings, config, caches, kv_caches, place)
        except Unsuited as error:
            log.warning("tierd keeps nothing of this engine's cache: %s", error)
            return
        if stage.memory.device.type == "cpu":
            _permit_tiles()
        self._greeting = Greeting(stage.layout.given())
        groups = len(caches.kv_cache_groups)
        self._worker = WorkerSide(self._settings, stage, groups=groups)

    def get_handshake_metadata(self) -> Greeting:
        """Return what the scheduler must know of this worker."""
        return self._greeting

    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        """Begin a step. Pages of preempted requests are safe: those of saves are held."""
        if self._worker is not None:
            self._worker.begin()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Start the step's loads."""
        if self._worker is not None:
            self._worker.start_loads(self._work())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Return at once: no step computes with pages that are still being loaded."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Return at once: blocks are saved whole, after the step."""

    def wait_for_save(self) -> None:
        """Start the step's saves; nothing is waited for."""
        if self._worker is not None:
            self._worker.start_saves(self._work())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Return which loads have ended, and which of them brought nothing of use."""
        if self._worker is None:
            return KVConnectorTransferResults()
        ended, failed = self._worker.finish(self._work())
        return KVConnectorTransferResults(finished_recving=ended, failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Return the pages that ended loads did not fill."""
        return self._worker.failed_pages() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> Done | None:
        """Return what the scheduler has not heard yet."""
        return self._worker.done() if self._worker is not None else None

    # ---- the scheduler's side

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], Greeting]
    ) -> None:
        """Take every worker's layout; a block is there if all stages have it."""
        stages: dict[int, LayoutSpec] = {}
        for (pipeline_rank, _), greeting in sorted(metadata.items(), key=lambda item: item[0]):
            if greeting.layout is None:
                return
            layout = LayoutSpec.of(greeting.layout)
            known = stages.setdefault(pipeline_rank, layout)
            if known != layout:
                log.error("workers differ: %s", "; ".join(known.differences(layout)))
                return
        layouts = [stages[rank] for rank in sorted(stages)]
        if len({layout.block_tokens for layout in layouts}) != 1:
            log.error("stages have blocks of different sizes: give block_tokens")
            return
        self._scheduler = SchedulerSide(self._settings, self._vllm_config, layouts)
        self._bind()

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        """Take the scheduler's cache manager."""
        super().bind_kv_cache_manager(kv_cache_manager)
        self._bind()

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Return how many tokens can be loaded; None if the daemon has not answered yet."""
        if self._scheduler is None:
            return 0, False
        return self._scheduler.match(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note the pages that a load is to fill."""
        if self._scheduler is not None:
            self._scheduler.allocated(request, blocks, num_external_tokens)

    def get_external_cache_hit_sources(
        self, request: Any, num_external_tokens: int
    ) -> dict[CacheHitSource, int]:
        """Return the tiers of a load."""
        if self._scheduler is None:
            return {}
        return self._scheduler.sources(request, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> Work:
        """Return the workers' part of a step."""
        if self._scheduler is None:
            return Work()
        self._scheduler.preempted(scheduler_output.preempted_req_ids or ())
        return self._scheduler.build(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        """Take what the workers say."""
        if self._scheduler is not None:
            self._scheduler.note(connector_output)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Note a request's end. Its pages need not wait: those of saves are held one by one."""
        if self._scheduler is not None:
            self._scheduler.finished(request, block_ids)
        return False, None

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Do the same for an engine with one group."""
        return self.request_finished_all_groups(request, (block_ids,))

    def has_pending_block_frees(self) -> bool:
        """Say whether saves hold pages that come free soon."""
        return self._scheduler is not None and self._scheduler.frees_pages

    def has_pending_push_work(self) -> bool:
        """Say whether the engine must go on: the end of a save is heard of in a step."""
        return self._scheduler is not None and self._scheduler.publishes

    def take_events(self) -> Iterable[Any]:
        """Return what happened to blocks."""
        return self._scheduler.events() if self._scheduler is not None else ()

    def get_kv_connector_stats(self) -> Stats | None:
        """Return what was counted; the scheduler counts for all workers."""
        return self._scheduler.stats() if self._scheduler is not None else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Stats:
        """Return counts that have travelled."""
        return Stats(data or {})

    def shutdown(self) -> None:
        """Give everything back. Safe to call twice."""
        if self._worker is not None:
            self._worker.close()
        if self._scheduler is not None:
            self._scheduler.close()
        self._worker = self._scheduler = None

    # ---- how

    def _work(self) -> Work:
        work = self._get_connector_metadata()
        assert isinstance(work, Work)
        return work

    def _bind(self) -> None:
        if self._scheduler is not None and self._kv_cache_manager is not None:
            caches = self._kv_cache_config
            page_tokens = caches.kv_cache_groups[0].kv_cache_spec.block_size
            hash_tokens = caches.hash_block_size or page_tokens
            self._scheduler.bind(self._kv_cache_manager, page_tokens, hash_tokens)


def _permit_tiles() -> None:
    """Ask the kernel for AMX, as a first step of many tokens would by the way.

    vLLM's attention uses it without asking. An engine whose first request is found in tierd but
    for one or two tokens never takes such a step, and would die of an illegal instruction.
    """
    permit = getattr(torch.cpu, "_init_amx", None)
    if permit is not None:
        permit()
