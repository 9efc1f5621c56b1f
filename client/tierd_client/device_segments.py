"""Segments read into GPU memory, as `segments.py` reads them into the CPU's.

With time to spare kvikio reads into the caller's memory, and the GPU verifies. What must not
reach that memory late is read beside it, into the CPU's, and copied by the caller.
"""

from collections.abc import Sequence
from typing import Protocol

from tierd.core.keys import BlockKey
from tierd_client.device_buffers import DeviceCopies
from tierd_client.gds import DirectReader, SlotRun
from tierd_client.memory import SegmentFile
from tierd_client.segments import SegmentReader


class DeviceReader(Protocol):
    """What a loader asks of a reader: see `SegmentReader`, whose targets are the CPU's."""

    @property
    def mechanism(self) -> str: ...

    def read(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey], targets: Sequence[int]
    ) -> list[str]: ...

    def read_beside(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey]
    ) -> tuple[list[str], list[int]]: ...


class DeviceSegmentReader:
    """Reads by kvikio the parts that `beside` reads on the CPU. Concurrency: any thread."""

    def __init__(self, direct: DirectReader, beside: SegmentReader) -> None:
        self._direct = direct
        self._beside = beside

    @property
    def mechanism(self) -> str:
        """Say whether bytes go straight to the GPU ("gds"), or through host memory ("compat")."""
        return self._direct.label

    def read(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey], targets: Sequence[int]
    ) -> list[str]:
        """Read neighbouring slots, the first being `first` of the segment, into `targets`.

        Shapes: a key and an address of `part_bytes` bytes of GPU memory for each slot. Returns
        what is wrong with each, "" where nothing is.

        Raises:
            OSError: the file, or the GPU, does not answer.
        """
        start = segment.first_slot + first * segment.slot_stride
        run = SlotRun(segment.descriptor, start, keys, self._beside.part)
        faults = self._direct.read_each(run, targets)
        if any(faults):
            # The file may be one that was replaced: it is not to be kept on the disk by us.
            self._direct.forget(segment.descriptor)
        return faults

    def read_beside(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey]
    ) -> tuple[list[str], list[int]]:
        """Read into CPU memory: see `SegmentReader.read_beside`."""
        return self._beside.read_beside(segment, first, keys)


class BouncedReader:
    """Reads into CPU memory, verifies there, and copies to the GPU. Concurrency: any thread."""

    mechanism = "bounced"

    def __init__(self, beside: SegmentReader, copies: DeviceCopies) -> None:
        self._copies = copies
        self._beside = beside

    def read(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey], targets: Sequence[int]
    ) -> list[str]:
        """Read as `DeviceSegmentReader.read` does."""
        faults, payloads = self._beside.read_beside(segment, first, keys)
        size = self._beside.layout.part_bytes
        read = zip(targets, payloads, faults, strict=True)
        copies = [(to, at, size) for to, at, fault in read if not fault]
        self._copies.copy_all(copies, self._copies.device_of(targets))
        return faults

    def read_beside(
        self, segment: SegmentFile, first: int, keys: Sequence[BlockKey]
    ) -> tuple[list[str], list[int]]:
        """Read into CPU memory: see `SegmentReader.read_beside`."""
        return self._beside.read_beside(segment, first, keys)
