"""The client for asyncio: the same calls, awaited.

One implementation serves both faces. A call runs in a thread of the client's own, because what
takes its time is a copy that a loop must not wait for; threads cost less than a second client.

Cancellation: a cancelled call ends in its thread, within its deadline; what it leases is
released, and the caller's memory may still be written until then.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, Self, TypeVar

import tierd_client
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec
from tierd_client.namespace import Chain, Namespace
from tierd_client.renewal import Held
from tierd_client.results import Fetched, Matched, Published
from tierd_client.splitting import Route
from tierd_client.views import Reservation, Views
from tierd_proto.v1 import tierd_pb2 as pb

_CALLS_MAX: Final = 16
"""Calls of one client under way at once; those beyond wait for a thread."""

P = ParamSpec("P")
R = TypeVar("R")


class _Threads:
    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_CALLS_MAX, thread_name_prefix="tierd-aio")

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(call, *args, **kwargs))

    def close(self) -> None:
        self._executor.shutdown(wait=False)


async def connect(address: str = "", wait_s: float = 5.0, name: str = "") -> "AsyncClient":
    """Return a client of the daemon at `address`; see `tierd_client.connect`."""
    threads = _Threads()
    try:
        client = await threads.run(tierd_client.connect, address, wait_s, name)
    except BaseException:  # Cancelled or failed, nobody else would end the threads.
        threads.close()
        raise
    return AsyncClient(client, threads)


class AsyncClient:
    """`tierd_client.Client`, awaited. Made by `connect`; any loop may use it."""

    def __init__(self, client: tierd_client.Client, threads: _Threads) -> None:
        self._client = client
        self._threads = threads

    async def open(self, layout: LayoutSpec, name: str = "") -> "AsyncNamespace":
        """Return the namespace of `layout`; see `Client.open`."""
        namespace = await self._threads.run(self._client.open, layout, name)
        return AsyncNamespace(namespace, self._threads)

    async def status(self) -> pb.StatusReply:
        """Return what the daemon is and holds."""
        return await self._threads.run(self._client.status)

    async def ping(self) -> None:
        """Go to the daemon and back on the session's stream."""
        await self._threads.run(self._client.ping)

    async def aclose(self) -> None:
        """End the session. Safe to call twice."""
        await asyncio.to_thread(self._client.close)
        self._threads.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncNamespace:
    """`tierd_client.Namespace`, awaited. Arguments, results and errors are the same.

    Hints, keys, and what is done with views and a reservation's memory do not wait, and are not
    awaited; `seal` of a reservation is, through this class.
    """

    def __init__(self, namespace: Namespace, threads: _Threads) -> None:
        self._namespace = namespace
        self._threads = threads
        self.layout = namespace.layout
        self.name = namespace.name
        self.prefetch = namespace.prefetch
        self.end_turn = namespace.end_turn
        self.end_session = namespace.end_session

    def keys(self, tokens: Any) -> list[BlockKey]:
        """Return the key of every whole block of `tokens`, root first."""
        return self._namespace.keys(tokens)

    async def match(self, chain: Chain, *, count_missing: bool = False) -> Matched:
        """Return how much of `chain` is held now."""
        return await self._threads.run(self._namespace.match, chain, count_missing=count_missing)

    async def hold(
        self, chain: Chain, timeout_s: float = 5.0, *, count_missing: bool = False
    ) -> Held:
        """Lease the longest held prefix of `chain` where it is."""
        return await self._threads.run(
            self._namespace.hold, chain, timeout_s, count_missing=count_missing
        )

    async def fetch(
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
        """Copy the longest held prefix of `chain`, from `first` on, to the caller's memory."""
        call = self._namespace.fetch
        return await self._threads.run(
            partial(call, chain, into, first=first, deadline_s=deadline_s, wait_s=wait_s),
            part=part,
            route=route,
            compute_s=compute_s,
        )

    async def fetch_and_reserve(
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
        """Like `fetch`, and in the same step reserve the blocks that are missing."""
        call = self._namespace.fetch_and_reserve
        return await self._threads.run(
            partial(call, chain, into, deadline_s=deadline_s, wait_s=wait_s),
            part=part,
            route=route,
            compute_s=compute_s,
        )

    async def fetch_views(
        self,
        chain: Chain,
        *,
        first: int = 0,
        deadline_s: float = 5.0,
        wait_s: float = 0.0,
        part: int = 0,
    ) -> Views:
        """Lease the longest held prefix of `chain`; view it, from `first` on, without a copy."""
        call = partial(self._namespace.fetch_views, chain, first=first)
        return await self._threads.run(call, deadline_s=deadline_s, wait_s=wait_s, part=part)

    async def reserve(self, chain: Chain, *, part: int = 0, wait_s: float = 0.0) -> Reservation:
        """Ask for slots for those blocks of `chain` that nobody holds."""
        return await self._threads.run(self._namespace.reserve, chain, part=part, wait_s=wait_s)

    async def seal(self, reservation: Reservation) -> int:
        """Make a reservation's blocks visible; return how many are."""
        return await self._threads.run(reservation.seal)

    async def publish(
        self,
        chain: Chain,
        source: Any,
        *,
        first: int = 0,
        part: int = 0,
        wait_s: float = 0.0,
        durable_s: float = 0.0,
    ) -> Published:
        """Offer the blocks of `chain` from position `first` on, which `source` holds."""
        call = self._namespace.publish
        return await self._threads.run(
            call, chain, source, first=first, part=part, wait_s=wait_s, durable_s=durable_s
        )

    async def persist(self, chain: Chain, wait_s: float = 5.0) -> int:
        """Write the held prefix of `chain` down now; return how many blocks are durable."""
        return await self._threads.run(self._namespace.persist, chain, wait_s)

    async def pin(self, chain: Chain, ttl_s: float) -> int:
        """Keep the held prefix of `chain` for `ttl_s`; return how many blocks."""
        return await self._threads.run(self._namespace.pin, chain, ttl_s)
