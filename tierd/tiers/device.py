"""The device tier: spare GPU memory that the engines of a host share.

With CUDA every region is a torch allocation of its own, shared with local clients by CUDA IPC.
Without, it is shared CPU memory like the host tier, labelled `emulated`, so that everything but
the medium is exercised anywhere.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierd.core.errors import CorruptSlot, TierOffline
from tierd.tiers.base import Probe, SlotRead, SlotWrite, SpaceSpec
from tierd.tiers.host import HostTier

if TYPE_CHECKING:
    import torch


class EmulatedDeviceTier(HostTier):
    """CPU memory in the place of GPU memory."""

    medium = "emulated"


class CudaSpace:
    """One namespace's slots in GPU memory, a tensor a region.

    Stream: copies run on a stream of the space and are finished when the call returns.
    """

    def __init__(self, spec: SpaceSpec, device: "torch.device") -> None:
        import torch

        self.spec = spec
        self.slot_bytes = spec.layout.block_bytes
        self._torch = torch
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._regions: dict[int, torch.Tensor] = {}

    def prepare(self, region: int) -> None:
        """Nothing: a region is allocated by its first write, which can report a failure."""

    async def write(self, writes: Sequence[SlotWrite]) -> None:
        """Copy every source into its slot.

        Raises:
            TierOffline: the GPU has no memory left, or refuses.
        """
        await asyncio.to_thread(self._copy, [(w.slot, w.source, "in") for w in writes])

    async def read(self, reads: Sequence[SlotRead]) -> list[CorruptSlot | None]:
        """Copy every slot out. Memory is trusted: nothing is verified."""
        await asyncio.to_thread(self._copy, [(r.slot, r.target, "out") for r in reads])
        return [None] * len(reads)

    async def sync(self) -> None:
        """Return at once: memory is as durable as it gets."""

    async def reclaim(self, region: int) -> None:
        """Drop the region's tensor. Clients that mapped it keep it until they let go."""
        self._regions.pop(region, None)

    def export(self) -> dict[int, bytes]:
        """Return the CUDA IPC handle of every region, as JSON that `open_region` reads."""
        return {number: _handle(tensor) for number, tensor in self._regions.items()}

    def _copy(self, pairs: Sequence[tuple[int, memoryview, str]]) -> None:
        torch = self._torch
        try:
            with torch.cuda.stream(self._stream):
                for slot, view, direction in pairs:
                    host = torch.frombuffer(view, dtype=torch.uint8)
                    device = self._slot(slot)
                    target, source = (device, host) if direction == "in" else (host, device)
                    target.copy_(source, non_blocking=True)
            self._stream.synchronize()
        except torch.cuda.OutOfMemoryError as error:
            raise TierOffline("device", "no GPU memory left") from error

    def _slot(self, slot: int) -> "torch.Tensor":
        number, index = divmod(slot, self.spec.region_slots)
        if number not in self._regions:
            size = self.spec.region_slots * self.slot_bytes
            self._regions[number] = self._torch.empty(
                size, dtype=self._torch.uint8, device=self._device
            )
        return self._regions[number][index * self.slot_bytes : (index + 1) * self.slot_bytes]


class CudaDeviceTier:
    """Memory of one GPU."""

    medium = "cuda"

    def __init__(self, name: str, device: str) -> None:
        import torch

        self.name = name
        self._device = torch.device(device)
        self._spaces: dict[bytes, CudaSpace] = {}

    def space(self, spec: SpaceSpec) -> CudaSpace:
        """Return the space of `spec.layout`, the same one for equal fingerprints."""
        fingerprint = spec.layout.fingerprint
        if fingerprint not in self._spaces:
            self._spaces[fingerprint] = CudaSpace(spec, self._device)
        return self._spaces[fingerprint]

    async def probe(self) -> Probe:
        """Find nothing wrong: what a GPU does next is known when it is asked."""
        return Probe()

    async def aclose(self) -> None:
        """Drop every tensor. Safe to call twice."""
        self._spaces.clear()


def _handle(tensor: "torch.Tensor") -> bytes:
    shared: tuple[Any, ...] = tensor.untyped_storage()._share_cuda_()  # type: ignore[no-untyped-call]
    parts = [b64encode(p).decode() if isinstance(p, bytes) else p for p in shared]
    return json.dumps(parts).encode()


def cuda_is_present() -> bool:
    """Say whether torch can use a GPU, without importing it where there is clearly none."""
    if not Path("/dev/nvidiactl").exists():
        return False
    import torch

    return torch.cuda.is_available()


def page_lock(address: int, size: int) -> None:
    """Page-lock memory, so that a GPU copies to and from it at full speed. Best effort."""
    import torch

    torch.cuda.cudart().cudaHostRegister(address, size, 0)  # type: ignore[no-untyped-call]
