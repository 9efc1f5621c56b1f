"""The store keeps its laws and its promises, whatever happens in whatever order.

Clients of both kinds, local and remote, use two namespaces of different block sizes in tiers of
a few slots; moves end in any order, with faults; leases run out; processes die. The laws are
checked after every step, and all that the store says is judged by an oracle of its own.
"""

from collections.abc import Mapping
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from tests.properties.store_oracle import Oracle
from tests.stores import page_layout, store_config, tier
from tierd.control import events as ev
from tierd.control import laws
from tierd.control.config import Limits, StoreConfig
from tierd.control.store import Store
from tierd.core.keys import BlockKey
from tierd.core.units import NS_PER_S, PAGE_BYTES

LIMITS = Limits(
    leases_per_session_max=6,
    waiting_max=3,
    slots_per_publish_max=4,
    write_batch_bytes=2 * PAGE_BYTES,
    write_batches_max=2,
    expected_blocks_max=20,
)

LAYOUTS = (page_layout("one shard"), page_layout("two shards", shards=2))

Fault = Literal["source", "target"] | None

# Few chains, with trunks in common: what is asked for is often held, and often in part.
trunks = st.sampled_from([b"aaaaaa", b"aaabbb", b"abcabc", b"bbbbbb"])
chains = st.builds(lambda trunk, depth: trunk[:depth], trunks, st.sampled_from([6, 5, 4, 3, 2, 1]))
namespaces = st.sampled_from([0, 0, 1])
parts = st.sampled_from([0, 0, 1])
waits = st.sampled_from([0, 0, 3, 15])
stagings = st.sampled_from([ev.STAGE_ALL, ev.STAGE_ALL, 0, 1, 3])
firsts = st.sampled_from([0, 0, 1, 3])
pauses = st.sampled_from([0, NS_PER_S - 1, NS_PER_S + 5, NS_PER_S + 15, 90 * NS_PER_S])
rarely = st.sampled_from([False, False, False, True])
faults: st.SearchStrategy[Fault] = st.sampled_from([None, None, None, "source", "target"])


# What is asked for apart. Most are in no chain; "a" begins one, "ab" is in one behind another.
loose = st.sampled_from([b"x y z", b"z y x a", b"x y x z", b"y x ab z w", b"w v"])


def chain_to(namespace: int, path: bytes) -> list[BlockKey]:
    whole = bytes([namespace]) + path
    return [BlockKey(whole[:depth]) for depth in range(2, len(whole) + 1)]


def apart_to(namespace: int, paths: bytes) -> list[BlockKey]:
    return [BlockKey(bytes([namespace]) + path) for path in paths.split()]


class StoreMachine(RuleBasedStateMachine):
    config: StoreConfig

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle(Store(self.config))
        self.requests = 0
        self.faulted = False

    @initialize()
    def begin(self) -> None:
        self.oracle.open_session(1, None)
        self.oracle.open_session(2, 20)
        self.oracle.open_session(3, 30)
        for namespace, layout in enumerate(LAYOUTS):
            reply = self.oracle.ask(ev.OpenNamespace(1, self._request(), "", layout))
            assert reply == ev.NamespaceOpened(namespace, layout)
            self._publish(1, namespace, chain_to(namespace, b"aaaaaa"))
            self._publish(1, namespace, apart_to(namespace, b"x y z"), apart=True)
        self.end_all_moves()

    # ---- clients

    @rule(data=st.data(), namespace=namespaces, path=chains, wait=waits, part=parts)
    def fetch_and_reserve(
        self, data: st.DataObject, namespace: int, path: bytes, wait: int, part: int
    ) -> None:
        part = min(part, LAYOUTS[namespace].shards - 1)
        self._fetch(data, namespace, path, wait, part)

    @rule(data=st.data(), namespace=namespaces, path=chains, wait=waits)
    def fetch(self, data: st.DataObject, namespace: int, path: bytes, wait: int) -> None:
        self._fetch(data, namespace, path, wait, None)

    @rule(data=st.data(), namespace=namespaces, path=chains)
    def match(self, data: st.DataObject, namespace: int, path: bytes) -> None:
        keys, apart = self._keys(data, namespace, path)
        hold, counted = data.draw(st.booleans(), "hold"), data.draw(st.booleans(), "counted")
        session, request = self._session(data), self._request()
        self.oracle.ask(ev.Match(session, request, namespace, keys, hold, apart, counted))

    @rule(data=st.data(), namespace=namespaces, path=chains, wait=waits, part=parts)
    def reserve(
        self, data: st.DataObject, namespace: int, path: bytes, wait: int, part: int
    ) -> None:
        part = min(part, LAYOUTS[namespace].shards - 1)
        until_ns = self.oracle.now_ns + wait
        session, request = self._session(data), self._request()
        keys, apart = self._keys(data, namespace, path)
        self.oracle.ask(ev.Reserve(session, request, namespace, keys, part, until_ns, apart))

    @rule(data=st.data(), namespace=namespaces, path=chains)
    def publish(self, data: st.DataObject, namespace: int, path: bytes) -> None:
        """Write all that can be, every part, in one go: most of what a store sees."""
        self._publish(self._session(data), namespace, *self._keys(data, namespace, path))

    @rule(data=st.data(), namespace=namespaces, path=chains)
    def use(self, data: st.DataObject, namespace: int, path: bytes) -> None:
        """Fetch, wait for what is on its way, and release."""
        keys, apart = self._keys(data, namespace, path)
        session, request = self._session(data), self._request()
        event = ev.Fetch(session, request, namespace, keys, 0, None, apart=apart)
        fetched = self.oracle.ask(event)
        if isinstance(fetched, ev.Fetched) and fetched.lease:
            while self.oracle.readers[fetched.lease].pending and self.oracle.moves:
                self.end_all_moves()
            assert not self.oracle.readers[fetched.lease].pending
            self.oracle.release(fetched.lease)

    @precondition(lambda self: self._own(self.oracle.readers))
    @rule(data=st.data(), first=st.integers(0, 5), count=st.integers(1, 6))
    def stage(self, data: st.DataObject, first: int, count: int) -> None:
        lease = data.draw(st.sampled_from(self._own(self.oracle.readers)), "lease")
        self.oracle.stage(lease, first, count)

    @precondition(lambda self: self._own(self.oracle.writers))
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self._own(self.oracle.writers)), "lease")
        whole = len(self.oracle.writers[lease].contents)
        count = data.draw(st.one_of(st.just(whole), st.integers(0, whole)), "count")
        self.oracle.seal(self._request(), lease, count)

    @precondition(lambda self: self._own(self.oracle.session_of))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        own = self._own(self.oracle.session_of)
        self.oracle.release(data.draw(st.sampled_from(own), "lease"))

    @precondition(lambda self: self._own(self.oracle.session_of))
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self._own(self.oracle.session_of)), "lease")
        session = self.oracle.session_of[lease]
        self.oracle.ask(ev.Renew(session, self._request(), lease))

    @precondition(lambda self: self._own(self.oracle.readers))
    @rule(data=st.data())
    def read_failed(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self._own(self.oracle.readers)), "lease")
        blocks = self.oracle.readers[lease].blocks
        if blocks:
            self.oracle.read_failed(lease, data.draw(st.sampled_from(list(blocks)), "index"))

    @precondition(lambda self: self.oracle.contents)
    @rule(data=st.data(), really=rarely)
    def copy_corrupt(self, data: st.DataObject, really: bool) -> None:
        """Something is found wrong where no client reads, in any tier."""
        places = self.oracle.sealed_places()
        if really and places:
            self.oracle.copy_corrupt(data.draw(st.sampled_from(places), "place"))

    @precondition(lambda self: self.oracle.contents)
    @rule(data=st.data(), really=rarely)
    def copy_corrupt_before(self, data: st.DataObject, really: bool) -> None:
        """Something was found wrong that has been given up, or written anew, meanwhile."""
        places = self.oracle.sealed_places()
        if not really or not places:
            return
        place = data.draw(st.sampled_from(places), "place")
        contents = self.oracle.contents
        keys = {contents[each].key for each in places if each[1] == place[1]}
        keys.discard(contents[place].key)
        if keys:
            self.oracle.copy_corrupt_before(data.draw(st.sampled_from(sorted(keys)), "key"), place)

    @rule(data=st.data(), namespace=namespaces, path=chains, ttl=st.integers(1, 20), really=rarely)
    def pin(self, data: st.DataObject, namespace: int, path: bytes, ttl: int, really: bool) -> None:
        if not really:
            return
        keys = chain_to(namespace, path)
        self.oracle.ask(ev.Pin(self._session(data), self._request(), namespace, keys, ttl))

    @rule(
        data=st.data(),
        namespace=namespaces,
        path=chains,
        shared=st.integers(0, 3),
        expected_ns=pauses,
    )
    def hint(
        self, data: st.DataObject, namespace: int, path: bytes, shared: int, expected_ns: int
    ) -> None:
        keys = chain_to(namespace, path)
        self.oracle.feed(ev.Prefetch(namespace, keys))
        session = self._session(data)
        self.oracle.feed(ev.EndTurn(session, namespace, keys, expected_ns=expected_ns))
        if shared:
            self.oracle.feed(ev.EndSession(namespace, keys, shared - 1))

    @rule(data=st.data(), remote=st.booleans(), really=rarely)
    def replace_session(self, data: st.DataObject, remote: bool, really: bool) -> None:
        session = self._session(data)
        if not really:
            return
        self.oracle.close_session(session)
        number = max(self.oracle.clients) + 1
        self.oracle.open_session(number, None if remote else 10 * number)

    @rule(data=st.data(), really=rarely)
    def owner_dies(self, data: st.DataObject, really: bool) -> None:
        """Sometimes the end of the process is seen before that of its stream."""
        clients = [c for c in self.oracle.clients.values() if c.owner is not None and not c.dead]
        if not clients or not really:
            return
        client = data.draw(st.sampled_from(clients), "client")
        assert client.owner is not None
        self.oracle.owner_gone(client.owner)
        if not client.closed:
            self.oracle.close_session(client.number)
            self.oracle.open_session(max(self.oracle.clients) + 1, None)

    # ---- the world

    @precondition(lambda self: self.oracle.moves)
    @rule(data=st.data())
    def end_moves(self, data: st.DataObject) -> None:
        moves = st.lists(st.sampled_from(list(self.oracle.moves)), min_size=1, unique=True)
        self.oracle.end_moves([(n, self._fault(data, n)) for n in data.draw(moves, "moves")])

    @precondition(lambda self: self.oracle.moves)
    @rule()
    def end_all_moves(self) -> None:
        self.oracle.end_moves([(n, "target" if self.faulted else None) for n in self.oracle.moves])

    @precondition(lambda self: self.oracle.moves)
    @rule(data=st.data())
    def moves_stall(self, data: st.DataObject) -> None:
        """Nobody waits for them any more; they end all the same, late."""
        moves = st.lists(st.sampled_from(list(self.oracle.moves)), min_size=1, unique=True)
        self.oracle.feed(ev.MovesStalled(data.draw(moves, "moves")))

    @precondition(lambda self: self.oracle.returning)
    @rule(data=st.data())
    def region_reclaimed(self, data: st.DataObject) -> None:
        self.oracle.reclaim(data.draw(st.sampled_from(sorted(self.oracle.returning)), "region"))

    @rule(step=st.sampled_from([2, 5, 10, 20]))
    def time_passes(self, step: int) -> None:
        self.oracle.now_ns += step

    @rule()
    def tick(self) -> None:
        self._tick()

    @precondition(lambda self: len(self.config.tiers) > 1 and not self.faulted)
    @rule(really=rarely, indeed=rarely)
    def disk_fails(self, really: bool, indeed: bool) -> None:
        if really and indeed:
            self.faulted = True
            self.oracle.feed(ev.TierFaulted(len(self.config.tiers) - 1, "it burns"))

    @precondition(lambda self: len(self.config.tiers) > 1 and not self.faulted)
    @rule(really=rarely, full=st.booleans())
    def disk_takes_no_writes(self, really: bool, full: bool) -> None:
        """It is full, or no longer so."""
        if really:
            disk = len(self.config.tiers) - 1
            self.oracle.refusing = {disk} if full else set()
            self.oracle.feed(ev.TierReadOnly(disk, "ENOSPC") if full else ev.TierRecovered(disk))

    def teardown(self) -> None:
        """When all faults and clients are gone, everything is answered, and nothing stays held."""
        while self.oracle.moves or self.oracle.returning:
            if self.oracle.moves:
                self.end_all_moves()
            for place in list(self.oracle.returning):
                self.oracle.reclaim(place)
        self.oracle.now_ns += 20
        self._tick()
        assert not self.oracle.asked
        for client in self.oracle.clients.values():
            if not client.closed:
                self.oracle.close_session(client.number)
            if client.owner is not None and not client.dead:
                self.oracle.owner_gone(client.owner)
        self.oracle.now_ns += 100
        self._tick()
        store = self.oracle.store
        assert not store.leases.leases
        assert not store.incoming.by_key
        assert not store.room.apart
        assert len(store.waiting) == 0
        laws.check(store)

    # ---- what rules share

    def _publish(
        self, session: int, namespace: int, keys: list[BlockKey], apart: bool = False
    ) -> None:
        for part in range(LAYOUTS[namespace].shards):
            event = ev.Reserve(session, self._request(), namespace, keys, part, 0, apart)
            reserved = self.oracle.ask(event)
            if isinstance(reserved, ev.Reserved) and reserved.lease:
                count = len(self.oracle.writers[reserved.lease].contents)
                self.oracle.seal(self._request(), reserved.lease, count)

    def _fetch(
        self, data: st.DataObject, namespace: int, path: bytes, wait: int, part: int | None
    ) -> None:
        until_ns = self.oracle.now_ns + wait
        session = self._session(data)
        keys, apart = self._keys(data, namespace, path)
        stage_blocks = data.draw(stagings, "stage_blocks")
        first = min(data.draw(firsts, "first"), len(keys))
        request = self._request()
        self.oracle.ask(
            ev.Fetch(session, request, namespace, keys, until_ns, part, stage_blocks, first, apart)
        )

    def _tick(self) -> None:
        self.oracle.feed(ev.Tick())
        now_ns = self.oracle.now_ns
        for event in self.oracle.asked.values():
            assert isinstance(event, ev.Fetch | ev.Reserve)
            assert event.wait_until_ns > now_ns, ("forgotten", event)

    def _keys(
        self, data: st.DataObject, namespace: int, path: bytes
    ) -> tuple[list[BlockKey], bool]:
        """Return a chain, or keys apart, of which one may come twice."""
        if not data.draw(rarely, "apart"):
            return chain_to(namespace, path), False
        return apart_to(namespace, data.draw(loose, "loose")), True

    def _request(self) -> int:
        self.requests += 1
        return self.requests

    def _session(self, data: st.DataObject) -> int:
        clients = [c.number for c in self.oracle.clients.values() if not c.closed and not c.dead]
        return data.draw(st.sampled_from(clients), "session")

    def _own(self, leases: Mapping[int, object]) -> list[int]:
        """Return the leases of those clients that can still ask for something."""
        clients = self.oracle.clients
        own = []
        for lease in leases:
            client = clients[self.oracle.session_of[lease]]
            if not client.closed and not client.dead:
                own.append(lease)
        return own

    def _fault(self, data: st.DataObject, move: int) -> Fault:
        return data.draw(faults, "fault") or ("target" if self.faulted else None)


class TwoTierMachine(StoreMachine):
    config = store_config(tier("host", 12), tier("disk", 20), limits=LIMITS)


class ThreeTierMachine(StoreMachine):
    config = store_config(
        tier("device", 4, region_slots=2), tier("host", 12), tier("disk", 16), limits=LIMITS
    )


TestTwoTiers = TwoTierMachine.TestCase
TestThreeTiers = ThreeTierMachine.TestCase

TestTwoTiers.settings = settings(max_examples=120, stateful_step_count=60)
TestThreeTiers.settings = settings(max_examples=120, stateful_step_count=60)
