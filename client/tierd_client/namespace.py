"""A namespace as its user sees it: match, fetch, publish, and hints."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from tierd.core.errors import InvalidRequest, Overloaded, TierdError
from tierd.core.keys import BlockKey, chain_keys, join_keys
from tierd.core.layouts import LayoutSpec
from tierd.core.notes import BLOCK_CLASSES, BlockClass, check_expected
from tierd_client.apart import Apart
from tierd_client.buffers import Buffers
from tierd_client.connection import Connection, Opened
from tierd_client.devices import buffers_of
from tierd_client.fetching import Transfer, summary
from tierd_client.layering import ArrivingLayers, Layers, PresentLayers
from tierd_client.loader import Leased, Loader, LocalLoader, RemoteLoader
from tierd_client.placement import placed_runs
from tierd_client.renewal import Held, Renewal
from tierd_client.results import Fetched, Matched, Published
from tierd_client.splitting import Route, Split
from tierd_client.stream import StreamClosed
from tierd_client.views import Reservation, SlotViews, Views, private_views
from tierd_proto.v1 import tierd_pb2 as pb

if TYPE_CHECKING:
    from tierd_client.client import Client

_CALL_TIMEOUT_S = 5.0
_ANSWER_S_MAX = 0.1

Chain = Sequence[BlockKey] | Any
"""Keys in chain order, root first; or token ids, of which whole blocks count.

Where blocks are fetched or published it may be `Apart`, too.
"""


_CLASS_NUMBERS: Final[dict[BlockClass, Any]] = {
    name: pb.BlockClass.Value(f"BLOCK_CLASS_{name.upper()}") for name in BLOCK_CLASSES
}


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a fetch is to keep to; see `Namespace.fetch`."""

    deadline_s: float
    wait_s: float
    route: Route
    compute_s: float = 0.0
    first: int = 0


class Namespace:
    """All blocks of one layout. Made by `Client.open`.

    Concurrency: any method from any thread. A daemon that is away, slow or full costs hits, not
    exceptions: a fetch brings nothing, a publish is declined.
    """

    def __init__(self, client: "Client", layout: LayoutSpec, name: str) -> None:
        self.layout = layout
        self.name = name
        self._client = client

    def keys(self, tokens: Any) -> list[BlockKey]:
        """Return the key of every whole block of `tokens`, root first."""
        return chain_keys(self.layout.root, tokens, self.layout.block_tokens)

    def match(self, chain: Chain, *, count_missing: bool = False) -> Matched:
        """Return how much of `chain` is held now. Leases nothing.

        A fetch counts as hit what it found and as missed what it did not. Who asks first and
        fetches only what is there has the rest counted with `count_missing`.
        """
        _, reply, by_tier = self._match(
            chain, _CALL_TIMEOUT_S, hold=False, count_missing=count_missing
        )
        return Matched(reply.blocks, by_tier, tuple(reply.further))

    def hold(
        self,
        chain: Chain,
        timeout_s: float = _CALL_TIMEOUT_S,
        *,
        count_missing: bool = False,
    ) -> Held:
        """Lease the longest held prefix of `chain` where it is: nothing of it goes meanwhile.

        Whoever fetches it does that as always, from any process. `count_missing` as of `match`.
        Waits for the daemon for up to `timeout_s`.
        """
        connection, reply, by_tier = self._match(
            chain, timeout_s, hold=True, count_missing=count_missing
        )
        if connection is None or not reply.lease:
            return Held(0, {}, None)
        renewal = Renewal(connection, reply.lease, reply.term_ns / 1e9)
        return Held(reply.blocks, by_tier, renewal)

    def fetch(
        self,
        chain: Chain,
        into: Any,
        *,
        first: int = 0,
        deadline_s: float = 5.0,
        wait_s: float = 0.0,
        part: int = 0,
        route: Route = "auto",
        compute_s: float = 0.0,
    ) -> Fetched:
        """Copy the longest held prefix of `chain`, from block `first` on, to the caller's memory.

        Shapes: `into` is one contiguous buffer, array or tensor of at least [blocks, part_bytes]
        bytes, or a sequence of buffers, one a block, for `len(chain) - first` blocks: those before
        `first` the caller has already. They may be in the memory of a GPU of the daemon's host;
        what was queued there and uses them has to be done. Blocks that lie in pieces, as in an
        engine's pages, are `Scattered`. Units: seconds.
        `wait_s` is how long to wait while another client is writing the next block; what has
        not come by `deadline_s` is cut off. `part` is the shard's rank. `route` says how blocks
        on disk come: through the daemon's memory ("staged"), read by this process ("direct"), or
        as is faster, by the rates seen so far ("auto"). `compute_s` is how long the engine would
        compute one block: where the disk takes longer, the prefix ends before its first block on
        disk. 0 brings everything.

        Raises:
            InvalidRequest: `into` is none of these, or too small, or a GPU's where there is none.
        """
        terms = _Terms(deadline_s, wait_s, route, compute_s, first)
        return self._fetch(chain, into, terms, part, None)[0]

    def fetch_and_reserve(
        self,
        chain: Chain,
        into: Any,
        *,
        deadline_s: float = 5.0,
        wait_s: float = 0.0,
        part: int = 0,
        route: Route = "auto",
        compute_s: float = 0.0,
    ) -> tuple[Fetched, Reservation]:
        """Like `fetch`, and in the same step reserve the blocks that are missing.

        Of several clients that ask for the same chain at once, one gets the reservation; the
        others wait up to `wait_s` for what it publishes.
        """
        terms = _Terms(deadline_s, wait_s, route, compute_s)
        return self._fetch(chain, into, terms, part, part)

    def fetch_layers(
        self,
        chain: Chain,
        into: Any,
        *,
        first: int = 0,
        deadline_s: float = 5.0,
        wait_s: float = 0.0,
        part: int = 0,
    ) -> Layers:
        """Start copying the longest held prefix of `chain`, all blocks' first layers first.

        Shapes and units as of `fetch`. An engine computes with a layer as soon as it is here:

            with kv.fetch_layers(tokens, into) as fetch:
                for layer in fetch.layers():
                    ...

        Blocks on disk are read by this process, through memory of the CPU. Over the network all
        layers come at once.

        Raises:
            InvalidRequest: `into` is none of what `fetch` takes, or too small.
        """
        until_s = time.monotonic() + deadline_s
        self._check_part(part)
        terms = _Terms(deadline_s, wait_s, "direct", first=first)
        keys = self._keys(chain)
        buffers = self._buffers(into, keys, first)
        connection = self._client.connection()
        if connection is None or not connection.maps_all:
            terms = replace(terms, route="auto")
            return PresentLayers(self.layout, self._fetch(chain, into, terms, part, None)[0])
        asked = self._ask_fetch(keys, until_s, terms, None)
        if isinstance(asked, str) or not asked[2].lease:
            cut = asked if isinstance(asked, str) else ""
            return PresentLayers(self.layout, Fetched(cut=cut))
        connection, opened, reply, _ = asked
        loader = self._loader(connection, opened)
        assert isinstance(loader, LocalLoader)
        leased = _leased(reply, keys, part, until_s, first)
        return ArrivingLayers(connection, loader, reply, leased, buffers, self.layout)

    def fetch_views(
        self,
        chain: Chain,
        *,
        first: int = 0,
        deadline_s: float = 5.0,
        wait_s: float = 0.0,
        part: int = 0,
    ) -> Views:
        """Lease the longest held prefix of `chain`; view it, from `first` on, without a copy.

        Blocks that are not in mapped memory are brought into memory of this process first.
        """
        until_s = time.monotonic() + deadline_s
        self._check_part(part)
        keys = self._keys(chain)
        started_s = time.monotonic()
        _check_first(first, keys)
        terms = _Terms(deadline_s, wait_s, "staged", first=first)
        asked = self._ask_fetch(keys, until_s, terms, None)
        if isinstance(asked, str) or not asked[2].lease:
            return Views(None, 0, 0, ())
        connection, opened, reply, split = asked
        loader = self._loader(connection, opened)
        runs = placed_runs(reply, first)
        offset = part * self.layout.part_stride_bytes
        if isinstance(loader, LocalLoader) and _all_mapped(connection, reply):
            pieces = []
            for run in runs:
                arena = loader.touch_regions(run.tier, run.slot, run.count)
                stride = arena.slot_bytes
                view = arena.view[run.slot * stride : (run.slot + run.count) * stride].toreadonly()
                pieces.append((view, run.count, stride))
            slots = SlotViews(pieces, offset, self.layout.part_bytes)
            return Views(connection, reply.lease, reply.fence, slots)
        memory = private_views(self.layout, reply.blocks - first)
        buffers = Buffers(memory, self.layout.part_bytes, reply.blocks - first, writable=True)
        buffers.first = first
        leased = _leased(reply, keys, part, until_s, first)
        transfer = Transfer(connection, loader, reply, leased, buffers, split)
        delivery = transfer.run(connection.splitter(self.layout), started_s)
        size = self.layout.part_bytes
        count = min(delivery.prefix(), reply.blocks) - first
        slots = SlotViews([(memory.toreadonly(), count, size)], 0, size)
        return Views(connection, reply.lease, reply.fence, slots)

    def prepare(self, part: int = 0) -> None:
        """Have ready, some 16 MiB, what a first fetch from disk into `Scattered` would wait for.

        Not waited for.
        """
        self._check_part(part)
        self._client.prepare_reads(self.layout, part)

    def reserve(self, chain: Chain, *, part: int = 0, wait_s: float = 0.0) -> Reservation:
        """Ask for slots for those blocks of `chain` that nobody holds.

        `wait_s` is how long to wait while there is no slot at all.
        """
        keys = self._keys(chain)
        reached = self._reach()
        if reached is None or not keys:
            return self._declined(part, keys)
        connection, opened = reached
        wait_ns = int(wait_s * 1e9)
        body = pb.Reserve(**_about(opened, keys), part=part, wait_ns=wait_ns)
        future = connection.stream.ask(reserve=body)
        reply = self._wait(future, _CALL_TIMEOUT_S + wait_s)
        if reply is None:
            connection.release_when_answered(future)
            return self._declined(part, keys)
        return self._reservation(connection, opened, part, reply.reserve)

    def publish(
        self,
        chain: Chain,
        source: Any,
        *,
        first: int = 0,
        part: int = 0,
        wait_s: float = 0.0,
        durable_s: float = 0.0,
    ) -> Published:
        """Offer the blocks of `chain` from position `first` on, which `source` holds.

        Shapes: as `into` of `fetch`, for `len(chain) - first` blocks. On return the blocks are
        visible to every client, as far as there was room; those that are held already, or being
        written by another, are not copied. They are on disk soon after; `durable_s` is how long
        to wait for that, see `persist`.

        Raises:
            InvalidRequest: `source` is none of these, or too small; or `first` is not 0 where
                blocks are `Apart`, and so come after nothing.
        """
        keys = self._keys(chain)
        if first and isinstance(keys, Apart):
            raise InvalidRequest("first", str(first), "leave out keys apart that are not offered")
        buffers_of(source, self.layout.part_bytes, max(0, len(keys) - first), writable=False)
        with self.reserve(keys, part=part, wait_s=wait_s) as reservation:
            wanted = len(reservation.indices)
            if wanted and reservation.indices[0] < first:
                # What comes before was evicted meanwhile: nothing could hang on it.
                return Published(0, 0, wanted + reservation.declined)
            reservation.write(source, first)
            sealed = reservation.seal()
        declined = min(reservation.declined + wanted - sealed, max(0, len(keys) - first))
        durable = self.persist(keys, durable_s) if durable_s else 0
        held = max(0, len(keys) - first - sealed - declined)
        return Published(sealed, held, declined, durable)

    def persist(self, chain: Chain, wait_s: float = 5.0) -> int:
        """Write the held prefix of `chain` down now; return how many blocks are durable.

        Durable means that bytes and records are synced: they survive the end of the daemon, of
        the machine, and of its power. Waits for up to `wait_s`.
        """
        keys = self._keys(chain)
        reached = self._reach()
        if reached is None or not keys:
            return 0
        connection, opened = reached
        wait_ns = int(wait_s * 1e9)
        body = pb.Persist(**_about(opened, keys), wait_ns=wait_ns)
        reply = self._wait(connection.stream.ask(persist=body), _CALL_TIMEOUT_S + wait_s)
        return reply.persist.blocks if reply else 0

    def pin(self, chain: Chain, ttl_s: float) -> int:
        """Keep the held prefix of `chain` for `ttl_s`; return how many blocks, within the quota."""
        reached = self._reach()
        if reached is None:
            return 0
        connection, opened = reached
        keys = join_keys(self._chained(chain))
        body = pb.Pin(namespace=opened.number, keys=keys, ttl_ns=int(ttl_s * 1e9))
        reply = self._wait(connection.stream.ask(pin=body), _CALL_TIMEOUT_S)
        return reply.pin.blocks if reply else 0

    def prefetch(self, chain: Chain) -> None:
        """Hint: `chain` will be fetched soon. Not waited for."""
        if reached := self._reach():
            connection, opened = reached
            body = pb.Prefetch(namespace=opened.number, keys=join_keys(self._chained(chain)))
            connection.stream.tell(prefetch=body)

    def end_turn(
        self,
        chain: Chain,
        *,
        classes: Sequence[BlockClass] = (),
        waits_for: Literal["person", "tool"] = "person",
        expected_s: float | None = None,
    ) -> None:
        """Hint: the conversation pauses after `chain`, for a tool or a person.

        `classes` says what the tokens of each block are, from the first on. `expected_s` is how
        long the pause is expected to last, None if nobody knows. About a second before it is over
        the daemon brings what is on disk into its memory, unless before that the conversation goes
        on or ends, or the client is closed. A tool that takes a minute or more is no reason to
        keep what it waits for in memory until then. Not waited for.

        Raises:
            InvalidRequest: `expected_s` is negative, more than a day, or no number.
        """
        check_expected(expected_s)
        if reached := self._reach():
            connection, opened = reached
            body = pb.EndTurn(
                namespace=opened.number,
                keys=join_keys(self._chained(chain)),
                classes=[_CLASS_NUMBERS[name] for name in classes],
                tool_call=waits_for == "tool",
                expected_ns=_expected_ns(expected_s),
            )
            connection.stream.tell(end_turn=body)

    def end_session(self, chain: Chain, shared: int = 0) -> None:
        """Hint: the conversation is over. The first `shared` blocks serve others and stay."""
        if reached := self._reach():
            connection, opened = reached
            keys = join_keys(self._chained(chain))
            body = pb.EndSession(namespace=opened.number, keys=keys, shared=shared)
            connection.stream.tell(end_session=body)

    # ---- how

    def _fetch(
        self,
        chain: Chain,
        into: Any,
        terms: _Terms,
        part: int,
        reserve_part: int | None,
    ) -> tuple[Fetched, Reservation]:
        start_s = time.monotonic()
        until_s = start_s + terms.deadline_s
        self._check_part(part)
        keys = self._keys(chain)
        buffers = self._buffers(into, keys, terms.first)
        nothing = Reservation(None, None, self.layout, part, None)
        asked = self._ask_fetch(keys, until_s, terms, reserve_part)
        if isinstance(asked, str):
            return Fetched(seconds=time.monotonic() - start_s, cut=asked), nothing
        connection, opened, reply, split = asked
        reservation = nothing
        if reserve_part is not None:
            reservation = self._reservation(connection, opened, part, reply.reserved)
        if not reply.lease:
            return Fetched(seconds=time.monotonic() - start_s), reservation
        leased = _leased(reply, keys, part, until_s, terms.first)
        try:
            loader = self._loader(connection, opened)
            if buffers.is_on_device and not isinstance(loader, LocalLoader):
                remedy = "fetch into CPU memory: the daemon is on another host"
                raise InvalidRequest("into", "on a GPU", remedy)
            transfer = Transfer(connection, loader, reply, leased, buffers, split)
            delivery = transfer.run(connection.splitter(self.layout), start_s)
        finally:
            connection.release(reply.lease)
        seconds = time.monotonic() - start_s
        return summary(connection, reply, delivery, seconds), reservation

    def _match(
        self, chain: Chain, timeout_s: float, *, hold: bool, count_missing: bool
    ) -> tuple[Connection | None, pb.MatchReply, dict[str, int]]:
        """Return the reply, empty if there is none, who gave it, and what is in which tier."""
        keys = self._keys(chain)
        reached = self._reach(timeout_s)
        if reached is None or not keys:
            return None, pb.MatchReply(), {}
        connection, opened = reached
        body = pb.Match(**_about(opened, keys), hold=hold, count_missing=count_missing)
        future = connection.stream.ask(match=body)
        reply = self._wait(future, timeout_s)
        if reply is None:
            connection.release_when_answered(future)
            return None, pb.MatchReply(), {}
        found = zip(connection.tiers, reply.match.by_tier, strict=True)
        return connection, reply.match, {tier: count for tier, count in found if count}

    def _buffers(self, into: Any, keys: Sequence[BlockKey], first: int) -> Buffers:
        """Return where the blocks of a chain from `first` on lie in the caller's memory."""
        _check_first(first, keys)
        buffers = buffers_of(into, self.layout.part_bytes, len(keys) - first, writable=True)
        buffers.first = first
        return buffers

    def _ask_fetch(
        self,
        keys: Sequence[BlockKey],
        until_s: float,
        terms: _Terms,
        reserve_part: int | None,
    ) -> tuple[Connection, Opened, pb.FetchReply, Split] | str:
        """Return the reply, who gave it, and how to go about it; or why there is none."""
        if len(keys) <= terms.first:
            return ""
        reached = self._reach(max(0.0, until_s - time.monotonic()))
        if reached is None:
            return "deadline" if time.monotonic() >= until_s else "daemon away"
        connection, opened = reached
        split = self._split(connection, terms, len(keys) - terms.first)
        remaining_s = max(0.0, until_s - time.monotonic())
        # What is held is to be here in time, even if the wait was in vain.
        longest_s = remaining_s - min(_ANSWER_S_MAX, remaining_s / 4)
        body = pb.Fetch(
            **_about(opened, keys),
            wait_ns=int(min(terms.wait_s, longest_s) * 1e9),
            reserve=reserve_part is not None,
            part=reserve_part or 0,
            stage_blocks=split.stage_blocks(self.layout.part_bytes),
            first=terms.first,
        )
        future = connection.stream.ask(fetch=body)
        try:
            return connection, opened, future.result(remaining_s).fetch, split
        except TimeoutError:
            connection.release_when_answered(future)
            return "deadline"
        except StreamClosed:
            return "daemon away"
        except Overloaded:
            return "overloaded"

    def _split(self, connection: Connection, terms: _Terms, blocks: int) -> Split:
        """Choose the routes for a fetch of up to so many blocks."""
        # Over the network there is only one, through the daemon.
        route = terms.route if connection.memory else "staged"
        size = blocks * self.layout.part_bytes
        worth_rate = self.layout.part_bytes / terms.compute_s if terms.compute_s else 0.0
        with connection.splitting:
            splitter = connection.splitter(self.layout)
            return splitter.choose(route, size, time.monotonic(), worth_rate)

    def _wait(
        self, future: "Future[pb.ServerMessage]", timeout_s: float
    ) -> pb.ServerMessage | None:
        """Return the reply; None if it does not come in time, or at all, or is a refusal."""
        try:
            return future.result(timeout_s)
        except (StreamClosed, TimeoutError, Overloaded):
            return None

    def _reach(self, timeout_s: float = _CALL_TIMEOUT_S) -> tuple[Connection, Opened] | None:
        """Return the live connection and this namespace in it; None while the daemon is away."""
        connection = self._client.connection()
        if connection is None:
            return None
        try:
            return connection, connection.open(self.name, self.layout, timeout_s)
        except (StreamClosed, TimeoutError):
            return None
        except TierdError as error:
            self._client.report(error)
            return None

    def _loader(self, connection: Connection, opened: Opened) -> Loader:
        return self._client.loader(connection, opened, self.layout)

    def _reservation(
        self, connection: Connection, opened: Opened, part: int, reply: pb.ReserveReply
    ) -> Reservation:
        loader = self._loader(connection, opened)
        local = loader if isinstance(loader, LocalLoader) else None
        assert local is not None or isinstance(loader, RemoteLoader)
        return Reservation(connection, local, self.layout, part, reply)

    def _declined(self, part: int, keys: Sequence[BlockKey]) -> Reservation:
        reply = pb.ReserveReply(declined=len(keys))
        return Reservation(None, None, self.layout, part, reply)

    def _check_part(self, part: int) -> None:
        # Beyond the last part of a slot lies the next block.
        if not 0 <= part < self.layout.shards:
            raise InvalidRequest("part", str(part), f"the layout has {self.layout.shards} shards")

    def _chained(self, chain: Chain) -> Sequence[BlockKey]:
        if isinstance(chain, Apart):
            raise InvalidRequest("chain", "Apart", "give a chain: pins and hints are about those")
        return self._keys(chain)

    def _keys(self, chain: Chain) -> Sequence[BlockKey]:
        if isinstance(chain, Apart):
            return chain
        if len(chain) and isinstance(chain[0], bytes):
            return list(chain)
        return self.keys(chain)


def _about(opened: Opened, keys: Sequence[BlockKey]) -> dict[str, Any]:
    """Return the fields of a request that say which blocks it is about."""
    return {"namespace": opened.number, "keys": join_keys(keys), "apart": isinstance(keys, Apart)}


def _leased(
    reply: pb.FetchReply, keys: Sequence[BlockKey], part: int, until_s: float, first: int
) -> Leased:
    return Leased(reply.lease, reply.fence, keys, part, until_s, reply.term_ns / 1e9, first)


def _check_first(first: int, keys: Sequence[BlockKey]) -> None:
    if not 0 <= first <= len(keys):
        raise InvalidRequest("first", str(first), f"from 0 to the chain's {len(keys)} blocks")


def _expected_ns(expected_s: float | None) -> int:
    """Return a time as it travels, where 0 is one that nobody knows."""
    return 0 if expected_s is None else max(1, int(expected_s * 1e9))


def _all_mapped(connection: Connection, reply: pb.FetchReply) -> bool:
    """Say whether every block lies in CPU memory that this process maps, and is there now."""
    tiers = set(reply.run_tier)
    mapped = all(connection.mapped[t] and connection.mediums[t] != "cuda" for t in tiers)
    return mapped and not reply.run_pending
