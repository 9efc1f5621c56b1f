"""Virtual users: they fetch a request's prefix, compute what is missing and publish it.

What each does is what a user of a replay does (`tierd_bench.replay.user`), on the clock, and with
engines that take their time to compute. Who takes which request when is the replay's own agenda.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from tierd.control import events as ev
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_S
from tierd_bench.replay.agenda import Agenda, Finished, Pace, Ready
from tierd_bench.replay.driver import KeyBook
from tierd_bench.replay.user import PUBLISH, Terms
from tierd_bench.simulate.prefill import Prefill
from tierd_bench.simulate.timed_clock import Clock, Process, Resume, Servers, start
from tierd_bench.simulate.timed_daemon import SimulatedDaemon
from tierd_bench.simulate.timed_fetch import Delivered, Transfer
from tierd_bench.traces import Trace, TraceRequest
from tierd_client.splitting import DIRECT_READS_MAX, Splitter

_ANSWER_S_MAX: Final = 0.1
_RENEWALS: Final = 2
"""A write lease is renewed so many times a term while the engine computes."""


@dataclass(slots=True)
class Outcome:
    """One request. Counts are of blocks, times count from the start of the simulation.

    `first_token_ns` is the time from when the request was due, or from when its user took it up
    if requests have no times, to the end of prefill. `compute_s` is what the engine computed.
    """

    asked: int
    start_ns: int
    hits: dict[str, int] = field(default_factory=dict)
    route_bytes: dict[str, int] = field(default_factory=dict)
    fetch_ns: int = 0
    first_token_ns: int = 0
    compute_s: float = 0.0
    published: int = 0
    unpublished: int = 0
    cut: str = ""
    end_ns: int = 0

    @property
    def hit(self) -> int:
        """Blocks served, by all tiers together."""
        return sum(self.hits.values())


class Engine:
    """So many engines with one queue, which compute one prompt at a time each."""

    def __init__(self, clock: Clock, count: int, prefill: Prefill) -> None:
        self._clock = clock
        self._servers = Servers(clock, count)
        self._prefill = prefill

    def compute(self, cached: int, new: int) -> Process[float]:
        """Compute `new` tokens after `cached` ones; return how long an engine was busy."""
        seconds = self._prefill.seconds(cached, new)
        if seconds:
            yield self._servers.take
            yield self._clock.pause(int(seconds * NS_PER_S))
            self._servers.give()
        return seconds


class User(Protocol):
    """One way to answer a request."""

    def serve(self, request: TraceRequest, outcome: Outcome) -> Process[None]: ...


@dataclass(frozen=True, slots=True)
class ColdUser:
    """Computes every prompt whole."""

    clock: Clock
    engine: Engine
    block_tokens: int

    def serve(self, request: TraceRequest, outcome: Outcome) -> Process[None]:
        """Compute a prompt."""
        new = prompt_tokens(request, self.block_tokens)
        outcome.compute_s = yield from self.engine.compute(0, new)
        outcome.first_token_ns = self.clock.now_ns


class CachedUser:
    """Fetches what is held, computes the rest, and publishes that. All share one connection."""

    def __init__(
        self, daemon: SimulatedDaemon, engine: Engine, terms: Terms, client_s: float
    ) -> None:
        self._daemon = daemon
        self._clock = daemon.clock
        self._engine = engine
        self._terms = terms
        self._layout = daemon.layout
        self._book = KeyBook(daemon.layout.root)
        self._splitter = Splitter()
        self._readers = Servers(daemon.clock, 2 * DIRECT_READS_MAX)
        self._process = Servers(daemon.clock, 1)
        self._client_ns = int(client_s * NS_PER_S)

    def serve(self, request: TraceRequest, outcome: Outcome) -> Process[None]:
        """Fetch, compute, publish."""
        chain = self._book.chain(request.blocks)
        reserved: ev.Reserved | None = None
        if chain:
            fetched_ns = self._clock.now_ns
            yield self._process.take
            yield self._clock.pause(self._client_ns)
            self._process.give()
            delivered, reserved = yield from self._fetch(chain)
            outcome.fetch_ns = self._clock.now_ns - fetched_ns
            outcome.hits, outcome.route_bytes = delivered.by_tier, delivered.route_bytes
            outcome.cut = delivered.cut
        held = [reserved.lease] if reserved is not None and reserved.lease else []
        self._keep(held)
        tokens = prompt_tokens(request, self._layout.block_tokens)
        # The last token of a prompt is computed even if all is held: it gives the first answer.
        cached = min(outcome.hit * self._layout.block_tokens, max(0, tokens - 1))
        outcome.compute_s = yield from self._engine.compute(cached, tokens - cached)
        outcome.first_token_ns = self._clock.now_ns
        held.clear()
        if reserved is not None:
            yield from self._publish(chain, reserved, outcome)

    # ---- fetching

    def _fetch(self, chain: Sequence[BlockKey]) -> Process[tuple[Delivered, ev.Reserved]]:
        terms, layout = self._terms, self._layout
        started_ns = self._clock.now_ns
        until_ns = started_ns + int(terms.deadline_s * NS_PER_S)
        size = len(chain) * layout.part_bytes
        split = self._splitter.choose(terms.route, size, self._clock.now_s)
        longest_s = terms.deadline_s - min(_ANSWER_S_MAX, terms.deadline_s / 4)
        wait_ns = int(min(terms.writer_s, longest_s) * NS_PER_S)
        stage_blocks = split.stage_blocks(layout.part_bytes)
        reply = yield self._daemon.ask(
            lambda session, number, at_ns: ev.Fetch(
                session, number, 0, chain, at_ns + wait_ns, 0, stage_blocks
            )
        )
        if not isinstance(reply, ev.Fetched):
            return Delivered(cut="overloaded"), ev.Reserved(0, (), 0)
        assert reply.reserved is not None
        if not reply.lease:
            return Delivered(), reply.reserved
        transfer = Transfer(self._daemon, self._readers, reply, split, until_ns)
        held = [reply.lease]
        self._keep(held)
        delivered = yield from transfer.run(self._splitter, started_ns)
        held.clear()
        self._daemon.release(reply.lease)
        return delivered, reply.reserved

    # ---- publishing

    def _publish(
        self, chain: Sequence[BlockKey], reserved: ev.Reserved, outcome: Outcome
    ) -> Process[None]:
        """Write what is granted, and ask again while slots are declined and others come free."""
        yield from self._write(reserved, outcome)
        wait_ns = int(self._terms.slot_s * NS_PER_S)
        while outcome.unpublished:
            answer = yield self._daemon.ask(
                lambda session, number, at_ns: ev.Reserve(
                    session, number, 0, chain, 0, at_ns + wait_ns
                )
            )
            if not isinstance(answer, ev.Reserved) or not (yield from self._write(answer, outcome)):
                break

    def _write(self, reserved: ev.Reserved, outcome: Outcome) -> Process[int]:
        """Write and seal what is granted; return how many blocks that made visible."""
        granted = sum(grant.count for grant in reserved.grants)
        outcome.unpublished = granted + reserved.declined
        if not granted:
            return 0
        size = granted * self._layout.part_bytes
        yield self._daemon.media[self._daemon.entry].turns("write", size)
        outcome.route_bytes[PUBLISH] = outcome.route_bytes.get(PUBLISH, 0) + size
        answer = yield self._daemon.ask(
            lambda session, number, _: ev.Seal(session, number, reserved.lease, granted)
        )
        sealed = answer.blocks if isinstance(answer, ev.Sealed) else 0
        outcome.published += sealed
        outcome.unpublished -= sealed
        return sealed

    def _keep(self, held: list[int]) -> None:
        """Renew the lease in `held` as long as it is in there."""
        if not held:
            return
        config = self._daemon.store.config
        every_ns = min(config.read_lease_ns, config.write_lease_ns) // _RENEWALS

        def renew(_: Any) -> None:
            if held:
                lease = held[0]
                self._daemon.tell(lambda session: ev.Renew(session, 0, lease))
                self._clock.after(every_ns, renew)

        self._clock.after(every_ns, renew)


def prompt_tokens(request: TraceRequest, block_tokens: int) -> int:
    """Return the length of a prompt; where it was not recorded, that of its blocks."""
    if request.prompt_tokens is not None:
        return request.prompt_tokens
    return len(request.blocks) * block_tokens


class Replaying:
    """Hands the requests of a trace to users, and notes what came of each."""

    def __init__(self, clock: Clock, trace: Trace, users: int, pace: Pace, user: User) -> None:
        self._clock = clock
        self._requests = trace.requests
        self._pace = pace
        self._user = user
        self._agenda = Agenda(trace.requests, pace)
        self._idle: list[Resume] = []
        self.outcomes: list[Outcome] = []
        for number in range(users):
            start(self._use(number))

    def _use(self, number: int) -> Process[None]:
        yield self._clock.pause(0)
        while True:
            step = self._agenda.take(number, self._clock.now_ns)
            if isinstance(step, Finished):
                return
            if not isinstance(step, Ready):
                yield partial(self._wait, step.at_ns)
                continue
            request = self._requests[step.index]
            outcome = Outcome(len(request.blocks), self._clock.now_ns)
            since_ns = step.due_ns if self._pace.is_timed else outcome.start_ns
            yield from self._user.serve(request, outcome)
            outcome.first_token_ns -= since_ns
            outcome.end_ns = self._clock.now_ns
            self.outcomes.append(outcome)
            self._agenda.end(number, step.index, outcome.end_ns)
            self._wake_all()

    def _wait(self, at_ns: int | None, resume: Resume) -> None:
        self._idle.append(resume)
        if at_ns is not None:
            self._clock.at(at_ns, self._wake, resume)

    def _wake(self, resume: Resume) -> None:
        if resume in self._idle:
            self._idle.remove(resume)
            resume(None)

    def _wake_all(self) -> None:
        woken, self._idle = self._idle, []
        for resume in woken:
            self._clock.after(0, resume)
