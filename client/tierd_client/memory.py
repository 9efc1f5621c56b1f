"""The daemon's memory in this process: arenas, fences and segments, by descriptor.

One connection to the descriptor socket stands for this process. It is closed only when nothing
is mapped any more, for that is how the daemon learns that nobody writes to its slots.
"""

import contextlib
import ctypes
import mmap
import os
import socket
import threading
import weakref
from dataclasses import dataclass
from typing import Any, Final

from tierd.core.addresses import DESCRIPTOR_SUFFIX
from tierd_proto.v1 import tierd_pb2 as pb

_REPLY_BYTES_MAX: Final = 1 << 20
_TIMEOUT_S: Final = 5.0
_POPULATE_WRITE: Final = 23
_PIECE_BYTES: Final = 64 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Refused(Exception):
    """The daemon does not hand over what was asked for."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SegmentFile:
    """A segment that this process reads by itself. Units: bytes.

    The descriptor is closed when nobody has the object any more: closed earlier, its number may
    be another file's in the middle of a read.
    """

    descriptor: int
    slot_stride: int
    slot_header: int
    first_slot: int


class MappedArena:
    """The slots of one namespace in one tier, mapped into this process."""

    def __init__(self, descriptor: int, size: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._map = mmap.mmap(descriptor, size)
        self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._size = size
        self._populated: set[int] = set()

    def slot(self, number: int) -> memoryview:
        """Return the bytes of a slot, in place."""
        start = number * self.slot_bytes
        return self.view[start : start + self.slot_bytes]

    def has_populated(self, region: int) -> bool:
        """Say whether a region was mapped ahead, or is being so."""
        return region in self._populated

    def populate(self, region: int, region_slots: int) -> None:
        """Map the pages of a region ahead of its first use. Later calls do nothing."""
        if region in self._populated:
            return
        self._populated.add(region)
        length = region_slots * self.slot_bytes
        _libc.madvise(self.address + region * length, length, _POPULATE_WRITE)


class DaemonMemory:
    """What this process has of one daemon. Concurrency: any thread.

    Raises:
        OSError: there is no descriptor socket, or it does not answer.
        Refused: this process's user is not admitted.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        # Apart, so that nobody who looks at what is mapped waits for an answer to a question.
        self._asking = threading.Lock()
        self._overdue = False
        self._writers = 0
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # For a writer that was dropped without a word.
        weakref.finalize(self, self._socket.close).atexit = False
        try:
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.connect(path + DESCRIPTOR_SUFFIX)
            self.admission = self._ask(admission=pb.Admission())[0].token
        except (OSError, Refused):
            self._socket.close()
            raise
        self._arenas: dict[tuple[int, int], MappedArena | Any] = {}
        self._segments: dict[tuple[int, int, int], SegmentFile] = {}
        self._fences: memoryview | None = None

    def map_fences(self) -> None:
        """Map the session's fence table. To be called once the session is open."""
        reply, descriptor = self._ask(fences=pb.Fences())
        fences = mmap.mmap(descriptor, reply.bytes, prot=mmap.PROT_READ)
        os.close(descriptor)
        self._fences = memoryview(fences).cast("Q")

    def holds(self, fence: int, lease: int) -> bool:
        """Say whether a lease still holds. What was read before the call is then right."""
        return self._fences is not None and self._fences[fence] == lease

    def arena(self, namespace: int, tier: int) -> Any:
        """Return the mapped slots of a namespace in a tier: CPU memory, or GPU tensors."""
        with self._lock:
            known = self._arenas.get((namespace, tier))
        if known is not None and not hasattr(known, "is_cuda"):
            return known
        reply, descriptor = self._ask(arena=pb.Arena(namespace=namespace, tier=tier))
        if reply.cuda:
            from tierd_client.cuda import CudaArena

            arena: Any = CudaArena(dict(reply.cuda), reply.slot_stride)
        else:
            arena = MappedArena(descriptor, reply.bytes, reply.slot_stride)
            os.close(descriptor)
        with self._lock:
            return self._arenas.setdefault((namespace, tier), arena)

    def segment(self, namespace: int, tier: int, region: int) -> SegmentFile:
        """Return an open segment.

        Raises:
            Refused: the region is gone meanwhile.
        """
        with self._lock:
            known = self._segments.get((namespace, tier, region))
        if known is not None:
            return known
        segment = pb.Segment(namespace=namespace, tier=tier, region=region)
        reply, descriptor = self._ask(segment=segment)
        found = SegmentFile(descriptor, reply.slot_stride, reply.slot_header, reply.first_slot)
        weakref.finalize(found, os.close, descriptor).atexit = False
        with self._lock:
            return self._segments.setdefault((namespace, tier, region), found)

    def forget_segment(self, namespace: int, tier: int, region: int) -> None:
        """Let go of a segment whose file was replaced; the next use opens it anew."""
        with self._lock:
            self._segments.pop((namespace, tier, region), None)

    def begin_writing(self) -> bool:
        """Keep the daemon from taking this process for gone until `end_writing`.

        Returns False if it has been told so already: then its slots are not to be touched.
        """
        with self._lock:
            self._writers += not self._closed
            return not self._closed

    def end_writing(self) -> None:
        """Note that one writer has stopped for good."""
        with self._lock:
            self._writers -= 1
            self._let_go_if_idle()

    def close(self) -> None:
        """Tell the daemon that this process has let go, as soon as nobody writes to its slots.

        Views that are left stay readable.
        """
        with self._lock:
            self._closed = True
            self._let_go_if_idle()
            self._segments.clear()

    def _let_go_if_idle(self) -> None:
        if self._closed and not self._writers:
            self._socket.close()

    def _ask(self, **want: Any) -> tuple[pb.DescriptorReply, int]:
        with self._asking:
            if self._overdue:
                # A late answer would be taken for that to the next question.
                raise Refused("the daemon owes an answer")
            self._overdue = True
            with contextlib.suppress(BrokenPipeError):  # Whoever refuses us has said why.
                self._socket.send(pb.DescriptorRequest(**want).SerializeToString())
            packet, descriptors, _, _ = socket.recv_fds(self._socket, _REPLY_BYTES_MAX, 1)
            self._overdue = False
        reply = pb.DescriptorReply.FromString(packet)
        if reply.refused or not packet:
            raise Refused(reply.refused or "the daemon closed the descriptor socket")
        return reply, descriptors[0] if descriptors else -1
