"""Brings blocks into an engine's pages.

Into memory of the CPU they come by one `Namespace.fetch`, each as soon as it is read and found to
be right. Into that of a GPU they come by way of memory there that is kept for this.

No step computes with pages that are still being filled. Loading layer by layer beside the step was
measured on a CPU, and left out: what it hides costs the step more than it takes alone.
"""

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import torch

from tierd.core.keys import BlockKey
from tierd.core.units import MiB
from tierd_client.engines.link import Link
from tierd_client.engines.vllm.layout import Stage
from tierd_client.engines.vllm.messages import Load
from tierd_client.engines.vllm.settings import Settings
from tierd_client.namespace import Namespace
from tierd_client.results import Fetched

_STAGING_BYTES: Final = 16 * MiB
"""What is fetched at once where blocks do not come straight into the pages. Two such windows are
under way: while one is put there, the other is being read."""

_COLD_MAX: Final = 1024
"""So many loads from disk are remembered. What the engine has lost again once, it may once more."""

_ANSWER_S_MAX: Final = 1.0
_RATE_MIN: Final = 1e9
"""How long to wait for a daemon to say where blocks are that need not be moved, and, in bytes a
second, for copying them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a load came: engine blocks before `reached` are right, counted from the start."""

    reached: int
    size: int
    seconds: float
    by_tier: dict[str, int] = field(default_factory=dict)


class _Windows:
    """Which parts of a load are still to be fetched, and what came of the others.

    Concurrency: two threads take and give.
    """

    def __init__(self, first: int, stop: int, blocks: int) -> None:
        self._lock = threading.Lock()
        self._left = deque((at, min(at + blocks, stop)) for at in range(first, stop, blocks))
        self._wanted = [(at, end - at) for at, end in self._left]
        self._fetched: dict[int, Fetched] = {}

    def take(self) -> tuple[int, int] | None:
        """Return the first block of the next window and the block after it; None if done."""
        with self._lock:
            return self._left.popleft() if self._left else None

    def give(self, at: int, fetched: Fetched) -> None:
        """Note what is in the pages of the window that starts at `at`."""
        with self._lock:
            self._fetched[at] = fetched
            if fetched.blocks < dict(self._wanted)[at]:
                self._left.clear()  # What comes after a gap is of no use.

    def brought(self) -> tuple[int, dict[str, int]]:
        """Return how many blocks are there without a gap, and by tier."""
        got, by_tier = 0, dict[str, int]()
        for at, wanted in self._wanted:
            fetched = self._fetched.get(at, Fetched())
            got += fetched.blocks
            for tier, count in fetched.by_tier.items():
                by_tier[tier] = by_tier.get(tier, 0) + count
            if fetched.blocks < wanted:
                break
        return got, by_tier


class Loader:
    """Loads into one worker's pages.

    Concurrency: `run` from several threads.
    """

    def __init__(self, settings: Settings, stage: Stage) -> None:
        self._deadline_s = settings.deadline_s
        self._memory = stage.memory
        self._part = stage.part
        self._stream = stage.memory.stream()
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="tierd-window")
        self._staging_lock = threading.Lock()
        self._cold: deque[BlockKey] = deque(maxlen=_COLD_MAX)
        # What fits is known once the engine has taken its memory, so it is taken now.
        self._staging_blocks = max(1, _STAGING_BYTES // self._memory.part_bytes)
        self._staging = self._stagings() if self._stream is not None else []

    def prepare(self, link: Link) -> None:
        """Have a first load find ready what it needs. Not waited for."""
        if self._stream is None:
            for space in link.spaces:
                space.prepare(self._part)

    def run(self, link: Link, load: Load) -> Outcome:
        """Bring what `load` wants, as far as it comes until the deadline.

        Never waits longer, apart from a device that hangs in the middle of a read.
        """
        began_s = time.monotonic()
        span = self._memory.span
        first = load.first // span
        spaces = link.spaces
        if not spaces:
            return Outcome(load.first, 0, 0.0)
        got, by_tier = self._bring(link, spaces[0], load, first, began_s + self._deadline_s)
        seconds = time.monotonic() - began_s
        reached = max(load.first, (first + got) * span)
        return Outcome(reached, got * self._memory.part_bytes, seconds, by_tier)

    def _bring(
        self, link: Link, space: Namespace, load: Load, first: int, until_s: float
    ) -> tuple[int, dict[str, int]]:
        """Return how many blocks from `first` on are in the pages, and where they were."""
        if self._stream is not None:
            return self._fetch(space, load, first, until_s)
        blocks = len(load.keys) - first
        left_s = until_s - time.monotonic()
        if link.maps(load.by_tier):
            left_s = min(left_s, _ANSWER_S_MAX + blocks * self._memory.part_bytes / _RATE_MIN)
        fetched = space.fetch(
            load.keys,
            self._memory.places(load.table, first * self._memory.span, blocks),
            first=first,
            deadline_s=left_s,
            part=self._part,
            # One route is as fast as the disk. The other would fill the daemon's memory with what
            # this engine keeps in its own cache from now on.
            route="direct",
        )
        if fetched.blocks and not link.maps(fetched.by_tier):
            self._have_closer(space, load.keys[: first + fetched.blocks], load.keys[first])
        return fetched.blocks, fetched.by_tier

    def _have_closer(self, space: Namespace, keys: list[BlockKey], begin: BlockKey) -> None:
        """Have the daemon bring to its memory what comes from disk a second time."""
        if begin in self._cold:
            space.prefetch(keys)
        else:
            self._cold.append(begin)

    def _fetch(
        self, space: Namespace, load: Load, first: int, until_s: float
    ) -> tuple[int, dict[str, int]]:
        if not self._staging_lock.acquire(timeout=max(0.0, until_s - time.monotonic())):
            return 0, {}
        try:
            windows = _Windows(first, len(load.keys), self._staging_blocks)
            mine, others = self._staging
            beside = self._beside.submit(self._fetch_windows, space, load, windows, others, until_s)
            try:
                self._fetch_windows(space, load, windows, mine, until_s)
            finally:
                beside.result()
        finally:
            self._staging_lock.release()
        return windows.brought()

    def _fetch_windows(
        self,
        space: Namespace,
        load: Load,
        windows: "_Windows",
        staging: torch.Tensor,
        until_s: float,
    ) -> None:
        """Bring one window after another by way of `staging`, until none is left or one fails."""
        while (window := windows.take()) is not None:
            at, stop = window
            fetched = space.fetch(
                load.keys[:stop],
                staging,
                first=at,
                deadline_s=max(0.0, until_s - time.monotonic()),
                part=self._part,
            )
            self._place(staging, fetched.blocks, load, at)
            windows.give(at, fetched)

    def _stagings(self) -> list[torch.Tensor]:
        size, device = self._staging_blocks * self._memory.part_bytes, self._memory.device
        return [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]

    def _place(self, staging: torch.Tensor, blocks: int, load: Load, at: int) -> None:
        """Put what was fetched into the pages, and have it there on return."""
        assert self._stream is not None
        size = self._memory.part_bytes
        with torch.cuda.stream(self._stream):
            parts = staging[: blocks * size].view(blocks, size)
            self._memory.scatter_tensor(parts, load.table, at * self._memory.span)
        self._stream.synchronize()
