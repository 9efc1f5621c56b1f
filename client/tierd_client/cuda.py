"""Slots in GPU memory that the daemon shares by CUDA IPC. Imported only where there are some."""

import json
from base64 import b64decode
from typing import Any

import torch


class CudaArena:
    """The slots of one namespace in the device tier, a tensor a region.

    `handles` are the IPC handles by region; the daemon may lend more regions later, so an arena
    is asked for again when a region is missing.
    """

    is_cuda = True

    def __init__(self, handles: dict[int, bytes], slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._regions = {region: _open(handle) for region, handle in handles.items()}

    def slot(self, number: int, region_slots: int) -> torch.Tensor:
        """Return the bytes of a slot, uint8 on the GPU, in place."""
        region, index = divmod(number, region_slots)
        start = index * self.slot_bytes
        return self._regions[region][start : start + self.slot_bytes]


def _open(handle: bytes) -> torch.Tensor:
    parts: list[Any] = [b64decode(p) if isinstance(p, str) else p for p in json.loads(handle)]
    storage: Any = torch.UntypedStorage._new_shared_cuda(*parts)  # noqa: SLF001
    device = torch.device("cuda", parts[0])
    return torch.tensor([], dtype=torch.uint8, device=device).set_(storage)
