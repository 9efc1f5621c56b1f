"""Prefill engines: which requests a step takes, how long it lasts and what it streams.

Engines under expert parallelism run in lockstep: a step of all of them lasts as long as the
longest attention of one, and the rest of the layers is shared evenly (section 1.3 E).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tierd_bench.cluster.assumptions import CHUNK_TOKENS, PREFILL_OVERHEAD_S
from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.models import Model
from tierd_bench.cluster.parts import Engine, Request
from tierd_bench.cluster.resources import Join, Shared

QUOTA_S: Final = 0.3
"""Attention time that one step may take (section 1.3 E)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A request's part of a step: `new` tokens after `cached`."""

    request: Request
    cached: int
    new: int


Packing = Callable[[deque[Request], Model], list[Piece]]


def pack_by_quota(ready: deque[Request], model: Model) -> list[Piece]:
    """Take requests in order while predicted attention stays within the quota (section 1.3 E).

    Of the first that does not fit, the largest chunk that does is found by binary search.
    """
    taken: list[Piece] = []
    spent = 0.0
    for request in ready:
        cached = request.hit + request.done_new
        cost = model.attention_s(cached, request.left)
        if spent + cost > QUOTA_S:
            new = _largest_chunk(model, cached, request.left, QUOTA_S - spent)
            # A step takes one token at least, or a long context would never be served.
            if new or not taken:
                taken.append(Piece(request, cached, max(1, new)))
            break
        taken.append(Piece(request, cached, request.left))
        spent += cost
    return taken


def pack_by_tokens(ready: deque[Request], _: Model) -> list[Piece]:
    """Take requests in order up to a number of new tokens, whatever their attention costs."""
    taken: list[Piece] = []
    room = CHUNK_TOKENS
    for request in ready:
        if not room:
            break
        new = min(room, request.left)
        taken.append(Piece(request, request.hit + request.done_new, new))
        room -= new
    return taken


def _largest_chunk(model: Model, cached: int, most: int, seconds: float) -> int:
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if model.attention_s(cached, middle) <= seconds:
            least = middle
        else:
            most = middle - 1
    return least


Streaming = Callable[[Piece, "dict[Shared, float]", float], None]


def stream_layers(piece: Piece, demands: "dict[Shared, float]", bytes_per_token: float) -> None:
    """Add what layerwise prefill moves during the step (section 1.2).

    What the prefill side read goes buffer to GPU and then, with the new tokens, to the decode
    side's buffer; what the decode side read comes from there, and only new tokens go back.
    """
    request = piece.request
    read_here = request.hit_prefill if not request.done_new else 0
    read_there = piece.cached - read_here
    sent = read_here + piece.new
    pe, de = request.pe, request.de
    for resource, tokens in (
        (pe.nic_out, read_here + sent),
        (pe.nic_in, piece.cached),
        (pe.node.dram, read_here),
        (de.nic_out, read_there),
        (de.nic_in, sent),
        (de.node.dram, read_there + sent),
    ):
        if tokens:
            demands[resource] = demands.get(resource, 0.0) + tokens * bytes_per_token


def stream_nothing(_: Piece, __: "dict[Shared, float]", ___: float) -> None:
    """Move nothing during the step: whole requests were loaded before, or I/O is free."""


@dataclass(slots=True)
class AttentionBalance:
    """Sums over steps of the longest and of the mean attention of a lockstep group."""

    longest_s: float = 0.0
    mean_s: float = 0.0


class PrefillGroup:
    """Engines that step together. One step runs at a time."""

    __slots__ = (
        "_balance",
        "_loop",
        "_model",
        "_on_done",
        "_pack",
        "_ready",
        "_stepping",
        "_stream",
    )

    def __init__(
        self,
        loop: Loop,
        engines: list[Engine],
        model: Model,
        pack: Packing,
        stream: Streaming,
        balance: AttentionBalance,
        on_done: Callable[[Request], None],
    ) -> None:
        self._loop = loop
        self._model = model
        self._pack = pack
        self._stream = stream
        self._balance = balance
        self._on_done = on_done
        self._ready: dict[Engine, deque[Request]] = {engine: deque() for engine in engines}
        self._stepping = False

    def add(self, request: Request) -> None:
        """Queue a request whose KV is where the step reads it from."""
        self._ready[request.pe].append(request)
        if not self._stepping:
            self._stepping = True
            # Others that become ready at this instant join the same step.
            self._loop.after(0.0, self._step)

    def _step(self, _: object) -> None:
        pieces: list[Piece] = []
        attention: list[float] = []
        for ready in self._ready.values():
            taken = self._pack(ready, self._model) if ready else []
            attention.append(sum(self._model.attention_s(p.cached, p.new) for p in taken))
            pieces += taken
        if not pieces:
            self._stepping = False
            return
        mean_s = sum(attention) / len(attention)
        self._balance.longest_s += max(attention)
        self._balance.mean_s += mean_s
        linear_s = self._model.linear_s(sum(piece.new for piece in pieces)) / len(attention)
        demands: dict[Shared, float] = {}
        for piece in pieces:
            self._stream(piece, demands, self._model.kv_bytes_per_token)
        # Layers are streamed while others are computed: the step ends with the later of both.
        join = Join(1 + len(demands), self._stepped, pieces)
        self._loop.after(max(attention) + linear_s + PREFILL_OVERHEAD_S, join.part_ended)
        for resource, size in demands.items():
            resource.add(size, join)

    def _stepped(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            request = piece.request
            request.left -= piece.new
            request.done_new += piece.new
            if not request.left:
                self._ready[request.pe].remove(request)
                self._on_done(request)
        self._step(None)
