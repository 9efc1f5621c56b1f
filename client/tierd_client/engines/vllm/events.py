"""What vLLM's subscribers hear of blocks in tierd: stored when sealed, removed when found gone."""

from collections import OrderedDict
from typing import Any, Final

from vllm.distributed.kv_events import BlockRemoved, BlockStored
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

MEDIUM: Final = "tierd"

_TOLD_MAX: Final = 1 << 18
_SAVING_MAX: Final = 1024


class Events:
    """Collects events until vLLM takes them; nothing, if nobody subscribed.

    Hashes and sizes are those of the engine's own events, several to a block of tierd. The
    daemon does not tell when it evicts: a block is reported as removed when a request finds it
    gone. Of the hashes that were reported, the latest are remembered.
    """

    def __init__(self, config: Any, block_tokens: int) -> None:
        wanted = config.kv_events_config
        self._wanted = wanted is not None and wanted.enable_kv_cache_events
        self._block_tokens = block_tokens
        self.hash_tokens = block_tokens
        self._saving: OrderedDict[int, Any] = OrderedDict()
        self._told: OrderedDict[bytes, None] = OrderedDict()
        self._events: list[Any] = []

    def saving(self, number: int, request: Any) -> None:
        """Remember whose blocks a save has."""
        if self._wanted:
            self._saving[number] = request
            while len(self._saving) > _SAVING_MAX:
                self._saving.popitem(last=False)

    def stored(self, number: int, indices: list[int]) -> None:
        """Note that blocks of a save are visible to all engines of this host."""
        request = self._saving.pop(number, None)
        if request is None:
            return
        for index in indices:
            self._tell_stored(request, index)

    def matched(self, request: Any, blocks: int) -> None:
        """Note how many blocks of a request's chain the daemon has."""
        if not self._wanted:
            return
        step = self._block_tokens // self.hash_tokens
        gone = [each for each in request.block_hashes[blocks * step :] if each in self._told]
        for each in gone:
            del self._told[each]
        if gone:
            hashes = [maybe_convert_block_hash(each) for each in gone]
            self._events.append(BlockRemoved(block_hashes=hashes, medium=MEDIUM, locality="LOCAL"))

    def take(self) -> list[Any]:
        """Return what has not been taken yet."""
        events, self._events = self._events, []
        return events

    def _tell_stored(self, request: Any, index: int) -> None:
        size = self.hash_tokens
        step = self._block_tokens // size
        first = index * step
        hashes = request.block_hashes[first : first + step]
        if len(hashes) < step:
            return  # The request has changed since: a session took back its last tokens.
        parent = request.block_hashes[first - 1] if first else None
        adapter = request.lora_request
        self._events.append(
            BlockStored(
                block_hashes=[maybe_convert_block_hash(each) for each in hashes],
                parent_block_hash=maybe_convert_block_hash(parent) if parent else None,
                token_ids=list(request.all_token_ids[first * size : (first + step) * size]),
                block_size=size,
                lora_id=adapter.adapter_id if adapter else None,
                medium=MEDIUM,
                lora_name=adapter.name if adapter else None,
                locality="LOCAL",
            )
        )
        for each in hashes:
            self._told[each] = None
        while len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)
