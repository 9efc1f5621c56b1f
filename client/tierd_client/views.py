"""Zero-copy views of fetched blocks, and slots to write new ones into."""

import contextlib
import ctypes
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Self

import grpc

from tierd.core.errors import TierdError
from tierd.core.layouts import LayoutSpec
from tierd_client.buffers import Copy
from tierd_client.connection import Connection
from tierd_client.devices import buffers_of
from tierd_client.loader import LocalLoader
from tierd_client.stream import StreamClosed
from tierd_proto.v1 import tierd_pb2 as pb

_CHUNK_BYTES = 2 << 20
_SEAL_TIMEOUT_S = 10.0
_SEND_TIMEOUT_S = 60.0


class Views:
    """The bytes of a fetched prefix, in place, as long as the lease holds.

    `views[i]` is a read-only memoryview of this shard's part of block i. Whoever computes from
    it asks `valid()` afterwards: False means that the bytes may have changed meanwhile. Leaving
    the context, or `release`, ends the lease; views must not be used after that.
    """

    def __init__(
        self, connection: Connection | None, lease: int, fence: int, slots: Sequence[memoryview]
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._fence = fence
        self._slots = slots

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> memoryview:
        return self._slots[index]

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self._slots)

    def valid(self) -> bool:
        """Say whether everything read from the views until now is right."""
        connection = self._connection
        if connection is None:
            return not self._lease  # Without a lease there was nothing to read.
        return connection.memory is None or connection.memory.holds(self._fence, self._lease)

    def release(self) -> None:
        """End the lease. Safe to call twice."""
        connection, self._connection = self._connection, None
        self._slots = ()
        if connection is not None:
            connection.release(self._lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class SlotViews(Sequence[memoryview]):
    """Read-only views of runs of slots, made one by one when asked for."""

    def __init__(self, pieces: list[tuple[memoryview, int, int]], offset: int, size: int) -> None:
        # (the run's bytes, its slots, the distance between two)
        self._pieces = pieces
        self._offset = offset
        self._size = size
        self._count = sum(count for _, count, _ in pieces)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        for view, count, stride in self._pieces:
            if index < count:
                start = index * stride + self._offset
                return view[start : start + self._size]
            index -= count
        raise AssertionError("unreachable")

    def __iter__(self) -> Iterator[memoryview]:
        offset, size = self._offset, self._size
        for view, count, stride in self._pieces:
            for start in range(offset, offset + count * stride, stride):
                yield view[start : start + size]


class Reservation:
    """Slots of one's own for blocks that nobody holds yet.

    `indices` are their positions in the chain. Write them, through `views` or `write`, then
    `seal`: they become visible, root first. Left without that, they are given up and nobody
    ever saw them. An empty reservation is an ordinary answer.
    """

    def __init__(
        self,
        connection: Connection | None,
        loader: LocalLoader | None,
        layout: LayoutSpec,
        part: int,
        reply: pb.ReserveReply | None,
    ) -> None:
        memory = connection.memory if connection is not None else None
        if reply is not None and reply.lease and memory is not None and not memory.begin_writing():
            # The daemon has been told that this process has let go: nobody may write any more.
            connection = None
            reply = pb.ReserveReply(declined=reply.declined + sum(reply.grant_count))
        self._connection = connection
        self._layout = layout
        self._lease = reply.lease if reply else 0
        self.declined = reply.declined if reply else 0
        self._grants: list[tuple[int, int, int]] = []
        if reply is not None and connection is not None:
            rows = zip(reply.grant_index, reply.grant_slot, reply.grant_count, strict=True)
            self._grants = list(rows)
        self.indices = tuple(i for first, _, n in self._grants for i in range(first, first + n))
        self._helpers = loader.helpers if loader else None
        self._offset = part * layout.part_stride_bytes if loader else 0
        self._arenas = [self._arena(loader, slot, count) for _, slot, count in self._grants]

    @property
    def views(self) -> list[memoryview]:
        """Writable views of the slots, one for each of `indices`."""
        size = self._layout.part_bytes
        return [
            view[start : start + size]
            for view, _, count, stride in self._arenas
            for start in range(self._offset, self._offset + count * stride, stride)
        ]

    def write(self, source: Any, first: int = 0) -> None:
        """Copy blocks in: buffer i of `source` holds the block at position `first + i`.

        Raises:
            InvalidRequest: `source` is not as `publish` wants it, or lacks a block.
            OSError: the GPU whose memory it is does not answer. Nothing was sealed.
        """
        if not self._grants:
            return
        last_first, _, last_count = self._grants[-1]
        count = last_first + last_count - first
        buffers = buffers_of(source, self._layout.part_bytes, count, writable=False)
        copies: list[Copy] = []
        for (index, _, blocks), (_, address, _, stride) in zip(
            self._grants, self._arenas, strict=True
        ):
            if index < first:
                raise ValueError(f"block {index} is wanted, and source begins at {first}")
            copies += buffers.copies_to(index - first, address + self._offset, stride, blocks)
        buffers.copy_all(copies, self._helpers)

    def seal(self) -> int:
        """Make the blocks visible; return how many are. 0 if the lease ran out meanwhile."""
        connection, lease = self._connection, self._lease
        self._connection, self._lease = None, 0
        if connection is None or not lease:
            return 0
        count = len(self.indices)
        if connection.memory is None:
            count = self._send(connection, lease)
        sealed = 0
        with contextlib.suppress(StreamClosed, TierdError, TimeoutError):
            body = pb.Seal(lease=lease, blocks=count)
            sealed = connection.stream.ask(seal=body).result(_SEAL_TIMEOUT_S).seal.blocks
        _end_writing(connection)
        return sealed

    def abort(self) -> None:
        """Give the slots back unwritten. Safe to call twice."""
        connection, lease = self._connection, self._lease
        self._connection, self._lease = None, 0
        if connection is not None and lease:
            connection.release(lease)
            _end_writing(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _arena(
        self, loader: LocalLoader | None, slot: int, count: int
    ) -> tuple[memoryview, int, int, int]:
        """Return the view, address, count and stride of granted slots, or of stand-ins."""
        if loader is None:
            size = self._layout.part_bytes
            view = memoryview(mmap.mmap(-1, max(1, count * size)))
            return view, _address(view), count, size
        assert self._connection is not None
        arena = loader.touch_regions(self._connection.entry, slot, count)
        stride = arena.slot_bytes
        view = arena.view[slot * stride : (slot + count) * stride]
        return view, arena.address + slot * stride, count, stride

    def _send(self, connection: Connection, lease: int) -> int:
        """Send the stand-ins' bytes to the daemon; return how many blocks arrived."""
        call: Any = connection.stream.stub.Write
        try:
            chunks = self._chunks(connection.session, lease)
            return int(call(chunks, timeout=_SEND_TIMEOUT_S).blocks)
        except (grpc.RpcError, ValueError):  # ValueError: the channel is closed.
            return 0

    def _chunks(self, session: int, lease: int) -> Iterator[pb.WriteChunk]:
        for index, view in enumerate(self.views):
            for at in range(0, len(view), _CHUNK_BYTES):
                data = bytes(view[at : at + _CHUNK_BYTES])
                yield pb.WriteChunk(session=session, lease=lease, index=index, offset=at, data=data)


def private_views(layout: LayoutSpec, blocks: int) -> memoryview:
    """Return memory of this process for `blocks` parts."""
    return memoryview(mmap.mmap(-1, max(1, blocks * layout.part_bytes)))


def _end_writing(connection: Connection) -> None:
    if connection.memory is not None:
        connection.memory.end_writing()


def _address(view: memoryview) -> int:

    return ctypes.addressof(ctypes.c_char.from_buffer(view))
