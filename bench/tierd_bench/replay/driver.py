"""Drives a daemon with a trace: users as threads, the agenda between them, the figures beside.

Deciding what comes next is the agenda's, replaying one request the user's.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import numpy as np

from tierd.core.keys import BlockKey, adopt_keys
from tierd.core.layouts import LayoutSpec, opaque_layout
from tierd.core.units import NS_PER_S
from tierd_bench.replay.agenda import Agenda, Finished, Pace, Ready
from tierd_bench.replay.outcomes import AWAY, Outcome
from tierd_bench.replay.samples import Sampler
from tierd_bench.replay.target import Target
from tierd_bench.replay.user import Terms, User
from tierd_bench.traces import Trace

_LOOK_S: Final = 0.05
"""How often progress is told and the sampler asked whether it is due."""

_AWAY_S: Final = 0.1
"""How long a user pauses when no daemon answered: a request that moves nothing takes no time, and
a fast replay would be over before the daemon is back."""


@dataclass(frozen=True, slots=True)
class Drive:
    """How to replay."""

    users: int = 8
    pace: Pace = field(default_factory=Pace)
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is. Blocks and bytes of all requests that have ended."""

    requests: int
    asked: int
    hit: int
    fetched_bytes: int
    elapsed_ns: int


@dataclass(frozen=True, slots=True)
class Driven:
    """What a replay did: outcomes in the order of their ends. Cut short if `interrupted`."""

    outcomes: tuple[Outcome, ...]
    pace: Pace
    wall_ns: int
    interrupted: bool


def replay_layout(trace: Trace, token_bytes: int) -> LayoutSpec:
    """Return the layout of the namespace that `trace` is replayed in.

    It is salted with all that the trace asks for: the same replay finds its blocks again after
    a restart of the daemon, and another one never finds those of this.
    """
    digest = blake2b(digest_size=8)
    for request in trace.requests:
        digest.update(len(request.blocks).to_bytes(8, "little"))
        digest.update(np.asarray(request.blocks, dtype="<u8").tobytes())
    return opaque_layout("replay", trace.block_tokens, token_bytes, salt=digest.hexdigest())


def users_that_fit(trace: Trace, layout: LayoutSpec, users: int, memory_bytes: int) -> int:
    """Return how many of `users` have room for their longest request; 0 if none has."""
    longest = _longest_chain(trace) * layout.part_bytes
    return users if not longest else min(users, memory_bytes // longest)


class KeyBook:
    """Turns a trace's block ids into keys. Thread-safe: each id always gets the same key."""

    def __init__(self, root: BlockKey) -> None:
        self._root: Final = root
        self._keys: Final[dict[int, BlockKey]] = {}

    def chain(self, blocks: Sequence[int]) -> list[BlockKey]:
        """Return the keys of `blocks`."""
        known = [self._keys.get(block) for block in blocks]
        return [key or self._key(block) for key, block in zip(known, blocks, strict=True)]

    def _key(self, block: int) -> BlockKey:
        key = adopt_keys(self._root, [block.to_bytes(8, "little")])[0]
        return self._keys.setdefault(block, key)


class Driver:
    """Replays one trace against one target, once."""

    def __init__(
        self, trace: Trace, layout: LayoutSpec, target: Target, drive: Drive, started_ns: int
    ) -> None:
        self._trace: Final = trace
        self._target: Final = target
        self._drive: Final = drive
        self._started_ns: Final = started_ns
        self._book: Final = KeyBook(layout.root)
        self._shape: Final = (_longest_chain(trace), layout.part_bytes)
        self._agenda: Final = Agenda(trace.requests, drive.pace)
        self._turn: Final = threading.Condition()
        self._stopping = False
        self._outcomes: Final[list[Outcome]] = []
        self._progress = Progress(0, 0, 0, 0, 0)

    def run(self, sampler: Sampler, tell: Callable[[Progress], None]) -> Driven:
        """Replay everything; Ctrl-C ends it after the requests under way.

        `tell` is called from time to time, in the caller's thread, and so is the sampler.
        """
        interrupted = False
        with ThreadPoolExecutor(self._drive.users, thread_name_prefix="user") as threads:
            running = {threads.submit(self._use, user) for user in range(self._drive.users)}
            try:
                while running:
                    done, running = wait(running, _LOOK_S, FIRST_EXCEPTION)
                    for ended in done:
                        ended.result()
                    sampler.sample_when_due()
                    tell(self._progress)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                self._stop()
        wall_ns = self._now_ns()
        sampler.sample()
        tell(self._progress)
        return Driven(tuple(self._outcomes), self._drive.pace, wall_ns, interrupted)

    def _use(self, user: int) -> None:
        # Not cleared: only pages that are touched take memory, and warm ones are kept.
        scratch = np.empty(self._shape, np.uint8)
        replayer = User(self._target, scratch, self._drive.terms, self._now_ns)
        while (ready := self._next(user)) is not None:
            chain = self._book.chain(self._trace.requests[ready.index].blocks)
            outcome = replayer.replay(ready.index, chain, ready.due_ns)
            with self._turn:
                self._agenda.end(user, ready.index, outcome.end_ns)
                self._note(outcome)
                self._turn.notify_all()
                if outcome.cut == AWAY:
                    self._turn.wait_for(lambda: self._stopping, _AWAY_S)

    def _next(self, user: int) -> Ready | None:
        """Return what `user` replays next, when it is due; None at the end."""
        with self._turn:
            while not self._stopping:
                step = self._agenda.take(user, self._now_ns())
                if isinstance(step, Ready):
                    return step
                if isinstance(step, Finished):
                    return None
                pause_s = None if step.at_ns is None else (step.at_ns - self._now_ns()) / NS_PER_S
                self._turn.wait(None if pause_s is None else max(0.0, pause_s))
        return None

    def _note(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        so_far = self._progress
        self._progress = Progress(
            so_far.requests + 1,
            so_far.asked + outcome.asked,
            so_far.hit + outcome.hit,
            so_far.fetched_bytes + outcome.fetched_bytes,
            outcome.end_ns,
        )

    def _stop(self) -> None:
        with self._turn:
            self._stopping = True
            self._turn.notify_all()

    def _now_ns(self) -> int:
        return time.monotonic_ns() - self._started_ns


def _longest_chain(trace: Trace) -> int:
    return max((len(request.blocks) for request in trace.requests), default=0)
