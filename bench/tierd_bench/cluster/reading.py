"""Storage reads: queues bounded by the memory they read into, on the NIC of their node.

A read of one request may be cut into chunks and spread over both sides (see `split`). The paper
reads on one side and calls splitting future work (section 1.3 D).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.parts import Engine, Node, Request
from tierd_bench.cluster.resources import transfer


@dataclass(slots=True, eq=False)
class Part:
    """What `engine`'s side reads of a request: sizes of chunks in tokens, read one after another.

    `other` is the other side's part, to take chunks from its end when this side's are done.
    """

    request: Request
    engine: Engine
    queue: "ReadQueue"
    chunks: deque[int] = field(default_factory=deque)
    other: "Part | None" = None


class ReadQueue:
    """Reads into one piece of memory, in order; as many at once as it has room for."""

    __slots__ = ("_bytes", "_held", "_loop", "_on_read", "_room", "_waiting", "node")

    def __init__(
        self,
        loop: Loop,
        node: Node,
        room_tokens: int,
        bytes_per_token: float,
        on_read: Callable[[Request], None],
    ) -> None:
        self.node = node
        self._loop = loop
        self._room = room_tokens
        self._bytes = bytes_per_token
        self._on_read = on_read
        self._waiting: deque[Part] = deque()
        self._held = 0

    def add(self, part: Part) -> None:
        """Queue a part. It counts in the node's read queue until it is read."""
        self.node.queued += sum(part.chunks)
        self._waiting.append(part)
        self._start()

    def hold(self, tokens: int) -> None:
        """Take room for tokens that need not be read, because the node's DRAM has them."""
        self._held += tokens

    def release(self, tokens: int) -> None:
        """Give back room that read tokens took in the buffer."""
        self._held -= tokens
        self._start()

    def _start(self) -> None:
        while self._waiting:
            part = self._waiting[0]
            # A request larger than the whole buffer passes when it is alone.
            if part.chunks and self._held and self._held + part.chunks[0] > self._room:
                return
            self._waiting.popleft()
            self._next_chunk(part)

    def _next_chunk(self, part: Part) -> None:
        if not part.chunks and part.other is not None and part.other.chunks:
            self._take_over(part, part.other)
        if not part.chunks:
            part.request.parts -= 1
            if not part.request.parts:
                self._on_read(part.request)
            return
        tokens = part.chunks.popleft()
        self._held += tokens
        size = tokens * self._bytes
        node = self.node
        transfer({node.storage: size, node.dram: size}, self._chunk_read, (part, tokens))

    def _chunk_read(self, read: tuple[Part, int]) -> None:
        part, tokens = read
        self.node.queued -= tokens
        self.node.count_read(self._loop.now, tokens)
        if part.engine is part.request.prefill:
            part.request.hit_prefill += tokens
        else:
            part.request.hit_decode += tokens
        self._next_chunk(part)

    def _take_over(self, part: Part, other: Part) -> None:
        tokens = other.chunks.pop()
        other.queue.node.queued -= tokens
        self.node.queued += tokens
        part.chunks.append(tokens)


def chunked(tokens: int, chunks: int) -> deque[int]:
    """Return `tokens` in at most `chunks` sizes that differ by one token at most."""
    parts = min(chunks, tokens)
    return deque(tokens * (n + 1) // parts - tokens * n // parts for n in range(parts))


def balanced_share(tokens: int, prefill_queue: int, decode_queue: int) -> int:
    """Return how many of `tokens` the prefill side reads so that both sides end together.

    Both NICs are equally fast: q_p + x = q_d + (tokens - x), within 0 and `tokens`.
    """
    return min(tokens, max(0, (decode_queue - prefill_queue + tokens) // 2))
