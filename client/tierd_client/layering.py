"""A fetch that is consumed layer by layer, so that an engine starts before the last byte is here.

Blocks are layer-major, in memory and on disk, and slots on disk carry a checksum for every chunk
of layers. So the first chunk of all blocks is brought over first, then all second ones, and each
counts when it is verified.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from tierd.core.layouts import Chunk, LayoutSpec
from tierd_client.buffers import Buffers
from tierd_client.connection import Connection
from tierd_client.loader import ChunkFault, Gate, Leased, LocalLoader, RouteUse
from tierd_client.placement import PlacedRun, placed_runs
from tierd_client.renewal import Renewal
from tierd_client.results import Fetched
from tierd_proto.v1 import tierd_pb2 as pb

_TASK_BYTES: Final = 2 << 20
"""What one thread reads of a chunk at a time."""


class Layers:
    """The longest held prefix of a chain, on its way layer by layer. A context manager.

    `blocks` is how many come. `layers()` yields the number of each layer, in order, when that layer
    of all `blocks` blocks is in the caller's memory. It ends early if one cannot be had or the
    deadline passes: then the prefix is worth nothing, and `result().cut` says why. Leaving the
    context ends the lease.

    Concurrency: one consumer.
    """

    def __init__(self, blocks: int, layers: int) -> None:
        self.blocks = blocks
        self.first_s = 0.0
        self._layers = layers if blocks else 0
        self._started_s = time.monotonic()
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._fetched = Fetched()

    def layers(self) -> Iterator[int]:
        """Yield each layer when it is here; `first_s` is how long the first one took."""
        yielded = 0
        while yielded < self._layers and (arrived := self._arrived.get()):
            yield from range(yielded, yielded + arrived)
            yielded += arrived

    def result(self) -> Fetched:
        """Return what came of it. To be asked when `layers()` has ended."""
        return self._fetched

    def close(self) -> None:
        """Bring no more over, and end the lease. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PresentLayers(Layers):
    """A prefix that came in one piece: all of its layers are here."""

    def __init__(self, layout: LayoutSpec, fetched: Fetched) -> None:
        super().__init__(fetched.blocks, _layers(layout))
        self._fetched = fetched
        self.first_s = fetched.seconds
        self._arrived.put(self._layers)


class ArrivingLayers(Layers):
    """A leased prefix, brought over by a thread that runs ahead of the consumer.

    What is read from disk goes to memory of our own first: nobody has to wait for a read to end
    before the caller's memory is the caller's again.
    """

    def __init__(
        self,
        connection: Connection,
        loader: LocalLoader,
        reply: pb.FetchReply,
        leased: Leased,
        buffers: Buffers,
        layout: LayoutSpec,
    ) -> None:
        super().__init__(reply.blocks - leased.first, _layers(layout))
        self._connection = connection
        self._loader = loader
        self._leased = leased
        self._buffers = buffers
        self._chunks = layout.chunks
        runs = placed_runs(reply, leased.first)
        self._mapped = [run for run in runs if connection.mapped[run.tier]]
        cold = [run for run in runs if not connection.mapped[run.tier]]
        self._cold = [run.part(run.first + at, 1) for run in cold for at in range(run.count)]
        self._headers: dict[int, Any] = {}
        self._uses: dict[str, RouteUse] = {}
        self._gate = Gate(buffers)
        self._cut = ""
        self._renewal = Renewal(connection, leased.lease, leased.term_s)
        self._reads: queue.SimpleQueue[_ChunkRead | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._bring, name="tierd-layers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Bring no more over, and end the lease. Safe to call twice."""
        self._cut = self._cut or "closed"
        self._reads.put(None)  # For the thread, which may be waiting for a disk.
        self._thread.join()
        self._connection.release(self._leased.lease)

    # ---- in the thread

    def _bring(self) -> None:
        reads_left = self._start_reads()
        for number, chunk in enumerate(self._chunks):
            self._copy_mapped(chunk)
            while reads_left[number] and not self._is_over():
                if (read := self._hear()) is not None:
                    reads_left[read.number] -= 1
                    self._take(read)
            if self._is_over():
                break
            self.first_s = self.first_s or time.monotonic() - self._started_s
            self._arrived.put(chunk.layers)
        self._gate.shut()
        self._fetched = self._summary()
        self._arrived.put(0)

    def _start_reads(self) -> list[int]:
        """Have threads read every block's first chunk, then every second one; count by chunk."""
        reads = []
        for number, chunk in enumerate(self._chunks):
            count = max(1, _TASK_BYTES // chunk.bytes)
            tasks = [self._cold[at : at + count] for at in range(0, len(self._cold), count)]
            reads.append(len(tasks))
            for blocks in tasks:
                self._loader.submit(partial(self._read, number, blocks))
        return reads

    def _read(self, number: int, blocks: Sequence[PlacedRun]) -> None:
        """In a thread of the loader."""
        fault, index = None, 0
        for run in blocks:
            if self._is_over():
                break
            index = run.first
            header = self._headers.get(index)
            found = self._loader.read_chunk(
                run, number, header, self._leased, self._buffers, self._gate
            )
            if isinstance(found, ChunkFault):
                fault = found
                break
            self._headers[index] = found
        self._reads.put(_ChunkRead(number, blocks, index, fault))

    def _copy_mapped(self, chunk: Chunk) -> None:
        for run in self._mapped:
            if self._is_over():
                return
            try:
                self._loader.load_chunk(run, self._leased, self._buffers, chunk)
            except OSError:  # A GPU's driver refused.
                self._cut = "read failed"
                return
            self._count(run.tier, run.count, chunk)

    def _hear(self) -> "_ChunkRead | None":
        self._renewal.renew_if_due()
        left_s = min(self._leased.until_s, self._renewal.due_s) - time.monotonic()
        try:
            return self._reads.get(timeout=max(0.0, left_s))
        except queue.Empty:
            return None

    def _take(self, read: "_ChunkRead") -> None:
        chunk = self._chunks[read.number]
        self._count(read.blocks[0].tier, len(read.blocks), chunk)
        if read.fault and not self._is_over():
            self._cut = "read failed"
            lease, unanswered = self._leased.lease, read.fault.unanswered
            report = pb.ReadFailed(lease=lease, index=read.index, unanswered=unanswered)
            self._connection.stream.tell(read_failed=report)

    def _is_over(self) -> bool:
        """Say whether to bring no more over, and note why."""
        if not self._cut:
            if self._leased.is_late():
                self._cut = "deadline"
            elif not self._connection.alive:
                self._cut = "daemon away"
            elif not self._loader.holds(self._leased):
                self._cut = "lease expired"
        return bool(self._cut)

    def _count(self, tier: int, blocks: int, chunk: Chunk) -> None:
        use = self._uses.setdefault(self._loader.route(tier), RouteUse())
        use.blocks += blocks if chunk is self._chunks[-1] else 0
        use.bytes += blocks * chunk.bytes
        use.seconds = time.monotonic() - self._started_s

    def _summary(self) -> Fetched:
        seconds = time.monotonic() - self._started_s
        if self._cut:
            return Fetched(0, {}, self._uses, seconds, self._cut)
        tiers: dict[str, int] = {}
        for run in (*self._mapped, *self._cold):
            name = self._connection.tiers[run.tier]
            tiers[name] = tiers.get(name, 0) + run.count
        return Fetched(self.blocks, tiers, self._uses, seconds, "", "layer by layer")


@dataclass(frozen=True, slots=True)
class _ChunkRead:
    """What came of reading chunk `number` of some blocks; `fault` is that of block `index`."""

    number: int
    blocks: Sequence[PlacedRun]
    index: int
    fault: ChunkFault | None


def _layers(layout: LayoutSpec) -> int:
    return sum(group.layers for group in layout.groups)
