"""Brings blocks into an engine's pages.

Blocks in memory that this process maps are copied from where they are, straight into the pages;
afterwards the lease says whether the bytes were right. Everything else comes by `Namespace.fetch`
into memory that is kept for this, on the pages' device, and from there into the pages.

No step computes with pages that are still being filled. Loading layer by layer beside the step was
measured on a CPU, and left out: what it hides costs the step more than it takes alone.
"""

import mmap
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from tierd.core.units import MiB
from tierd_client.engines.vllm.layout import Stage
from tierd_client.engines.vllm.link import Link
from tierd_client.engines.vllm.messages import Load
from tierd_client.engines.vllm.settings import Settings
from tierd_client.namespace import Namespace
from tierd_client.results import Fetched
from tierd_client.splitting import Route

_STAGING_BYTES: Final = 16 * MiB
"""What is fetched at once where blocks do not come straight into the pages. Two such windows are
under way: while one is put there, the other is being read."""

_ANSWER_S_MAX: Final = 1.0
"""How long to wait for a daemon to say where blocks are that need not be moved."""


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
        # Into memory of the CPU one route is as fast as the disk. The other would have the daemon
        # promote for the next engine what this one keeps in its own cache from now on.
        self._route: Route = "direct" if self._stream is None else "auto"
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="tierd-copy")
        size = stage.layout.part_bytes
        self._staging_blocks = max(1, _STAGING_BYTES // size)
        self._staging_lock = threading.Lock()
        # Fresh memory is slow: it is made ready before the first load wants it.
        self._staging = self._helper.submit(self._stagings)

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
        if self._memory.device.type == "cpu" and link.maps(load.by_tier):
            return self._copy(space, load, first, until_s)
        return self._fetch(space, load, first, until_s)

    def _copy(
        self, space: Namespace, load: Load, first: int, until_s: float
    ) -> tuple[int, dict[str, int]]:
        left_s = min(_ANSWER_S_MAX, until_s - time.monotonic())
        with space.fetch_views(load.keys, first=first, deadline_s=left_s, part=self._part) as views:
            self._memory.scatter(list(views), load.table, first * self._memory.span, self._helper)
            got = len(views) if views.valid() else 0
            return got, load.by_tier if got else {}

    def _fetch(
        self, space: Namespace, load: Load, first: int, until_s: float
    ) -> tuple[int, dict[str, int]]:
        if not self._staging_lock.acquire(timeout=max(0.0, until_s - time.monotonic())):
            return 0, {}
        try:
            windows = _Windows(first, len(load.keys), self._staging_blocks)
            mine, others = self._staging.result()
            beside = self._helper.submit(self._fetch_windows, space, load, windows, others, until_s)
            try:
                self._fetch_windows(space, load, windows, mine, until_s)
            finally:
                beside.result()
        finally:
            self._staging_lock.release()
        return windows.brought()

    def _fetch_windows(
        self, space: Namespace, load: Load, windows: "_Windows", staging: Any, until_s: float
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
                route=self._route,
            )
            self._place(staging, fetched.blocks, load, at)
            windows.give(at, fetched)

    def _stagings(self) -> list[Any]:
        """Return two places for `_staging_blocks` parts, on the device of the pages."""
        size = self._staging_blocks * self._memory.part_bytes
        if self._stream is not None:
            device = self._memory.device
            return [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        places = [mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
        for place in places:
            place.madvise(mmap.MADV_HUGEPAGE)
            np.frombuffer(place, dtype=np.uint8).fill(0)
        return [memoryview(place) for place in places]

    def _place(self, staging: Any, blocks: int, load: Load, at: int) -> None:
        """Put what was fetched into the pages, and have it there on return."""
        size, first = self._memory.part_bytes, at * self._memory.span
        if self._stream is None:
            parts = [staging[index * size : (index + 1) * size] for index in range(blocks)]
            self._memory.scatter(parts, load.table, first, None)
            return
        with torch.cuda.stream(self._stream):
            parts = staging[: blocks * size].view(blocks, size)
            self._memory.scatter_tensor(parts, load.table, first)
        self._stream.synchronize()
