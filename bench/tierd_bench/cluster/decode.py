"""Decode engines: memory for KV, loading it from the buffer, and batches of all that is there."""

from collections import deque
from collections.abc import Callable

from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.models import Model
from tierd_bench.cluster.parts import Request
from tierd_bench.cluster.resources import Join, Shared

Loading = Callable[[Request, Callable[[Request], None]], None]
"""Brings a request's KV from the buffer to the GPU, then calls back."""


class DecodeEngine:
    """Decodes every request that fits in its memory at once; the others wait in order.

    All requests get one token a step, and a step takes longer with more requests and more KV
    (`Model.decode_step_s`), so that decoding is processor sharing over steps.
    """

    __slots__ = ("_batch", "_load", "_model", "_on_done", "_on_loaded", "_waiting", "resident")

    def __init__(
        self,
        loop: Loop,
        model: Model,
        on_loaded: Callable[[Request], None],
        on_done: Callable[[Request], None],
        load: Loading,
    ) -> None:
        self._model = model
        self._on_loaded = on_loaded
        self._on_done = on_done
        self._load = load
        self._waiting: deque[Request] = deque()
        self._batch = Shared(loop, lambda n: 1 / model.decode_step_s(n, self.resident))
        self.resident = 0

    @property
    def free_tokens(self) -> int:
        """Tokens of KV for which there is memory now."""
        return self._model.decode_kv_tokens - self.resident

    def add(self, request: Request) -> None:
        """Queue a request whose KV is complete in the buffer."""
        self._waiting.append(request)
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            needed = request.prompt + request.turn.generated
            if self.resident and needed > self.free_tokens:
                return
            self._waiting.popleft()
            self.resident += needed
            self._load(request, self._loaded)

    def _loaded(self, request: Request) -> None:
        self._on_loaded(request)
        # Prefill gave the first token.
        if request.turn.generated > 1:
            self._batch.add(request.turn.generated - 1, Join(1, self._done, request))
        else:
            self._done(request)

    def _done(self, request: Request) -> None:
        self.resident -= request.prompt + request.turn.generated
        self._on_done(request)
        self._admit()
