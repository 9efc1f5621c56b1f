"""One user of a replay: fetches a request's prefix, publishes the rest, checks what came.

The block contents stand for KV: writing them takes the place of computing, so a block that was
not served is written at once. Nothing here raises when the daemon is away: that is a miss, and
is counted.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from tierd.core.errors import TierdError
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_S
from tierd_bench.replay.content import BlockContent, Bytes, CorruptPage
from tierd_bench.replay.outcomes import Outcome, RouteShare
from tierd_bench.replay.target import Grant, Target
from tierd_client import Fetched
from tierd_client.splitting import Route

PUBLISH: Final = "publish"
"""The route of published blocks, beside those that the client names for fetched ones."""

CORRUPT_PAGES_KEPT: Final = 8
"""Of one request; all are counted."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a request waits: for its bytes, for blocks that others write, and for slots; and
    by which route blocks on disk come."""

    deadline_s: float = 30.0
    writer_s: float = 10.0
    slot_s: float = 5.0
    route: Route = "auto"


@dataclass(slots=True)
class _Notes:
    """What is known of a request so far."""

    asked: int
    hits: dict[str, int] = field(default_factory=dict)
    routes: dict[str, RouteShare] = field(default_factory=dict)
    fetch_ns: int = 0
    publish_ns: int = 0
    published: int = 0
    unpublished: int = 0
    corrupt_blocks: int = 0
    corrupt_pages: list[CorruptPage] = field(default_factory=list)
    cut: str = ""
    faults: list[str] = field(default_factory=list)


class User:
    """Replays requests one after another.

    Shapes: scratch [blocks of the longest chain, block_bytes].

    Concurrency: for one thread. Users share the target and nothing else.
    """

    def __init__(
        self, target: Target, scratch: Bytes, terms: Terms, clock: Callable[[], int]
    ) -> None:
        self._target: Final = target
        self._scratch: Final = scratch
        self._block_bytes: Final = scratch.shape[1]
        self._terms: Final = terms
        self._clock: Final = clock
        self._content: Final = BlockContent(self._block_bytes)

    def replay(self, index: int, chain: Sequence[BlockKey], due_ns: int) -> Outcome:
        """Replay one request and return what came of it."""
        notes = _Notes(asked=len(chain))
        start_ns = self._clock()
        if chain:
            try:
                self._fetch_and_publish(chain, notes)
            except TierdError as fault:
                notes.faults.append(f"{type(fault).__name__}: {fault}")
        return Outcome(
            index=index,
            start_ns=start_ns,
            end_ns=self._clock(),
            late_ns=start_ns - due_ns,
            asked=notes.asked,
            hits=notes.hits,
            routes=notes.routes,
            fetch_ns=notes.fetch_ns,
            publish_ns=notes.publish_ns,
            published=notes.published,
            unpublished=notes.unpublished,
            corrupt_blocks=notes.corrupt_blocks,
            corrupt_pages=tuple(notes.corrupt_pages),
            cut=notes.cut,
            faults=tuple(notes.faults),
        )

    def _fetch_and_publish(self, chain: Sequence[BlockKey], notes: _Notes) -> None:
        scratch = self._scratch[: len(chain)]
        started_ns = self._clock()
        fetched, grant = self._target.fetch_and_reserve(
            chain,
            scratch,
            deadline_s=self._terms.deadline_s,
            wait_s=self._terms.writer_s,
            route=self._terms.route,
        )
        notes.fetch_ns = self._clock() - started_ns
        _note_fetched(fetched, notes)
        try:
            # Before the checks: others may be waiting for these blocks.
            self._publish(chain, grant, notes)
        finally:
            self._check(chain[: fetched.blocks], scratch, notes)

    def _publish(self, chain: Sequence[BlockKey], first: Grant, notes: _Notes) -> None:
        """Write what is granted, and ask again while slots are declined and others come free."""
        started_ns = self._clock()
        with ExitStack() as grants:
            grant = grants.enter_context(first)
            self._write(chain, grant, notes)
            while notes.unpublished:
                grant = grants.enter_context(self._target.reserve(chain, wait_s=self._terms.slot_s))
                if not self._write(chain, grant, notes):
                    break
        if notes.published:
            notes.publish_ns = self._clock() - started_ns

    def _write(self, chain: Sequence[BlockKey], grant: Grant, notes: _Notes) -> int:
        """Fill and seal what is granted; return how many blocks that made visible."""
        notes.unpublished = len(grant.indices) + grant.declined
        if not grant.indices:
            return 0
        started_ns = self._clock()
        self._content.fill(grant.views, [chain[index] for index in grant.indices])
        count = len(grant.indices)
        written = RouteShare(count, count * self._block_bytes, self._clock() - started_ns)
        notes.routes[PUBLISH] = notes.routes.get(PUBLISH, RouteShare(0, 0, 0)) + written
        sealed = grant.seal()
        notes.published += sealed
        notes.unpublished -= sealed
        return sealed

    def _check(self, chain: Sequence[BlockKey], found: Bytes, notes: _Notes) -> None:
        corrupt = self._content.corrupt_pages(found[: len(chain)], chain)
        notes.corrupt_blocks = len(corrupt)
        notes.corrupt_pages = corrupt[:CORRUPT_PAGES_KEPT]


def _note_fetched(fetched: Fetched, notes: _Notes) -> None:
    notes.hits = {tier: count for tier, count in fetched.by_tier.items() if count}
    assert sum(notes.hits.values()) == fetched.blocks, (notes.hits, fetched.blocks)
    notes.cut = fetched.cut
    for name, use in fetched.routes.items():
        notes.routes[name] = RouteShare(use.blocks, use.bytes, int(use.seconds * NS_PER_S))
