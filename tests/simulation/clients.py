"""Simulated clients: generators that ask, read, write, forget, stall, lose their stream and die.

A client yields how long it is busy, or None until it is told something. It keeps the promises of
a real one, no more: it writes only where it was granted, lets go of a write lease only when it
has stopped, and believes what it copied only if the fence still shows the lease afterwards.
"""

from collections import defaultdict
from collections.abc import Generator, Sequence
from functools import partial

from tests.simulation.mediums import HOST, LAYOUTS, TORN, Place, bytes_of
from tests.simulation.world import World
from tierd.control import events as ev
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState
from tierd.core.units import NS_PER_S

Life = Generator[int | None, None, None]

_TRUNKS = (b"aaaaaa", b"aaabbb", b"abcabc", b"bbbbbb")
_STALL_NS = 150
_PATIENCE_NS = 1000
_PAUSES: tuple[AgentState, ...] = ("tool_call", "turn_ended")
_EXPECTED_NS = (1, NS_PER_S, NS_PER_S + 5, NS_PER_S + 20, NS_PER_S + 60, 90 * NS_PER_S)
"""Some are due at once, most while the client goes on, and one when it has long been gone."""


def chain_to(namespace: int, path: bytes) -> list[BlockKey]:
    """Return a chain whose keys are spelled as their paths from the root."""
    whole = bytes([namespace]) + path
    return [BlockKey(whole[:depth]) for depth in range(2, len(whole) + 1)]


class Client:
    """One process with one stream. Without an `owner` it is remote: the daemon copies for it."""

    def __init__(self, world: World, number: int, owner: int | None) -> None:
        self.number = number
        self.owner = owner
        self.fences: dict[int, int] = {}
        self.connected = True
        self.gone = False
        self.leaving = False
        self.reads = 0
        self.blocks_read = 0
        self.misses = 0
        self._world = world
        self._rng = world.rng
        self._answers: dict[int, ev.ReplyBody] = {}
        self._landed: dict[int, dict[int, int]] = defaultdict(dict)
        self._failed: dict[int, set[int]] = defaultdict(set)
        self._sent_ns = self._heard_ns = 0
        self._listening = False
        world.sessions[number] = self
        world.feed(ev.OpenSession(number, owner))
        self._life = self._live()
        self._resume()

    # ---- how it ends

    def die(self) -> None:
        """Stop at once, which is noticed on the stream and by the kernel in any order."""
        if self.gone:
            return
        self.gone = True
        self._life.close()
        if self.connected:
            self._world.after(self._rng.randint(0, 4), self._close)
        if self.owner is not None:
            self._world.after(self._rng.randint(0, 4), self._let_go)

    def lose_stream(self) -> None:
        """The stream breaks, and what was on its way is lost. The process lives on."""
        if self.connected and not self.gone:
            self._close()
            self._wake()

    def _close(self) -> None:
        if not self.connected:
            return
        self.connected = False
        self._world.feed(ev.CloseSession(self.number))

    def _let_go(self) -> None:
        assert self.owner is not None
        self._world.feed(ev.OwnerGone(self.owner))

    # ---- what it does

    def _live(self) -> Life:
        while self.connected and not self.leaving:
            yield self._rng.randint(1, 12)
            acts = (self._use, self._publish, self._hint)
            [act] = self._rng.choices(acts, weights=(4, 2, 1))
            yield from act()
        if not self.connected:
            self.gone = True
            if self.owner is not None:
                self._world.after(self._rng.randint(0, 20), self._let_go)

    def _use(self) -> Life:
        """Fetch, and reserve what is missing as a rule; read the one and write the other."""
        namespace, keys, part = self._choose()
        until_ns = self._world.now_ns + self._rng.choice([0, 0, 5, 30])
        reserve_part = self._rng.choice([None, part, part])
        request = self._world.next_request()
        first = self._rng.choice([ev.STAGE_ALL, ev.STAGE_ALL, 0, 1, 3])
        event = ev.Fetch(self.number, request, namespace, keys, until_ns, reserve_part, first)
        body = yield from self._ask(request, event)
        if not isinstance(body, ev.Fetched):
            return
        if body.lease:
            yield from self._read(namespace, keys, body)
        if body.reserved is not None and body.reserved.lease:
            yield from self._write(namespace, keys, body.reserved, part)

    def _publish(self) -> Life:
        """Write every part, one after the other, of what is missing."""
        namespace, keys, first = self._choose()
        shards = LAYOUTS[namespace].shards
        for part in range(first, shards):
            until_ns = self._world.now_ns + self._rng.choice([0, 20])
            request = self._world.next_request()
            event = ev.Reserve(self.number, request, namespace, keys, part, until_ns)
            body = yield from self._ask(request, event)
            if isinstance(body, ev.Reserved) and body.lease:
                yield from self._write(namespace, keys, body, part)

    def _hint(self) -> Life:
        namespace, keys, part = self._choose()
        until_ns = self._world.now_ns + 30
        kind = self._rng.randrange(6)
        if kind == 0:
            request = self._world.next_request()
            hold = self._rng.random() < 0.5
            match = ev.Match(
                self.number, request, namespace, keys, hold, count_missing=self._rng.random() < 0.5
            )
            body = yield from self._ask(request, match)
            if isinstance(body, ev.Matched) and body.lease and self._rng.random() < 0.8:
                self._send(ev.Release(self.number, body.lease))
        elif kind == 1:
            request = self._world.next_request()
            ttl_ns = self._rng.randint(1, 40)
            yield from self._ask(request, ev.Pin(self.number, request, namespace, keys, ttl_ns))
        elif kind == 2:
            request = self._world.next_request()
            event = ev.Persist(self.number, request, namespace, keys, until_ns)
            yield from self._ask(request, event)
        elif kind == 3:
            self._send(ev.Prefetch(namespace, keys))
        elif kind == 4:
            state = self._rng.choice(_PAUSES)
            expected_ns = self._rng.choice([0, *_EXPECTED_NS])
            self._send(ev.EndTurn(self.number, namespace, keys, (), state, expected_ns))
        else:
            self._send(ev.EndSession(namespace, keys, part))

    def _read(self, namespace: int, keys: Sequence[BlockKey], body: ev.Fetched) -> Life:
        """Copy block after block; what counts is decided by the fence, after the last one."""
        copied: list[tuple[bytes, ...]] = []
        broken = False
        deadline_ns = self._world.now_ns + self._rng.choice([10, 50, 50])
        self._world.after(deadline_ns - self._world.now_ns, self._wake)
        landed = self._landed[body.lease]
        for index, (where, pending) in enumerate(_spread(namespace, body.runs)):
            place = where
            if place[0] > HOST and not pending and self._rng.random() < 0.5:
                self._send(ev.Stage(self.number, body.lease, index, self._rng.randint(1, 3)))
                pending = True
            while pending and index not in landed.keys() | self._failed[body.lease]:
                if not self.connected or self._world.now_ns >= deadline_ns:
                    break
                yield None
            if index in landed:
                place = (HOST, namespace, landed[index])
            elif pending and index not in self._failed[body.lease]:
                break
            yield self._rng.randint(0, 2)
            parts = self._world.mediums.verified(place, keys[index])
            if parts is None or place[0] in self._world.mediums.offline:
                broken = parts is None
                break
            if self._rng.random() < self._world.mediums.faults.flipped:
                broken = True  # It was right when it was read, but not when it was copied on.
                break
            copied.append(parts)
            if self._rng.random() < 0.05:
                request = self._world.next_request()
                yield from self._ask(request, ev.Renew(self.number, request, body.lease))
        if self.fences.get(body.fence) == body.lease:
            self._check(namespace, keys, copied)
            if broken:
                self._send(ev.ReadFailed(self.number, body.lease, len(copied)))
        else:
            self.misses += 1
        if self._rng.random() < 0.9:
            self._send(ev.Release(self.number, body.lease))

    def _check(
        self, namespace: int, keys: Sequence[BlockKey], copied: Sequence[tuple[bytes, ...]]
    ) -> None:
        shards = range(LAYOUTS[namespace].shards)
        self.reads += 1
        self.blocks_read += len(copied)
        for key, parts in zip(keys, copied, strict=False):
            wanted = tuple(bytes_of(namespace, key, part) for part in shards)
            assert parts == wanted, ("law 5: other bytes than those sealed", namespace, key, parts)
            sealed = self._world.sealed.get((namespace, key), set())
            assert sealed == set(shards), ("law 5: never sealed", namespace, key)

    def _write(
        self, namespace: int, keys: Sequence[BlockKey], body: ev.Reserved, part: int
    ) -> Life:
        """Fill the slots of a grant, then seal all, some or none of it."""
        written = yield from self._fill(namespace, keys, body, part)
        if self._rng.random() < 0.1:
            self._send(ev.Release(self.number, body.lease))
            return
        count = len(written) if self._rng.random() < 0.8 else self._rng.randint(0, len(written))
        yield from self._seal(namespace, written[:count], body, part)

    def _fill(
        self, namespace: int, keys: Sequence[BlockKey], body: ev.Reserved, part: int
    ) -> Generator[int | None, None, list[BlockKey]]:
        mediums, shards = self._world.mediums, LAYOUTS[namespace].shards
        written: list[BlockKey] = []
        for grant in body.grants:
            for step in range(grant.count):
                place = (HOST, namespace, grant.slot + step)
                key = keys[grant.index + step]
                for content in (TORN, bytes_of(namespace, key, part)):
                    if self.owner is None and body.lease not in self.fences.values():
                        return written  # The daemon writes for it, and has stopped.
                    mediums.write(place, part, shards, content)
                    yield self._rng.randint(0, 2)
                written.append(key)
        return written

    def _seal(
        self, namespace: int, written: Sequence[BlockKey], body: ev.Reserved, part: int
    ) -> Life:
        for key in written:
            self._world.sealed.setdefault((namespace, key), set()).add(part)
        request = self._world.next_request()
        yield from self._ask(request, ev.Seal(self.number, request, body.lease, len(written)))

    def _choose(self) -> tuple[int, list[BlockKey], int]:
        """Return a namespace, a chain and a part."""
        namespace = self._rng.choice([0, 0, 1])
        path = self._rng.choice(_TRUNKS)[: self._rng.randint(1, 6)]
        return namespace, chain_to(namespace, path), self._rng.randrange(LAYOUTS[namespace].shards)

    # ---- its stream

    def receive(self, message: ev.Reply | ev.Landed) -> None:
        """Hear from the daemon, a little later and in order."""
        self._heard_ns = max(self._heard_ns, self._world.now_ns + self._rng.randint(0, 2))
        self._world.after(self._heard_ns - self._world.now_ns, partial(self._hear, message))

    def _hear(self, message: ev.Reply | ev.Landed) -> None:
        if isinstance(message, ev.Reply):
            self._answers[message.request] = message.body
        else:
            self._landed[message.lease].update(zip(message.indices, message.slots, strict=True))
            self._failed[message.lease] |= {*message.failed, *message.declined}
        self._wake()

    def _ask(
        self, request: int, event: ev.Event
    ) -> Generator[int | None, None, ev.ReplyBody | None]:
        """Send a request, and return its answer; None if the stream is lost."""
        self._send(event)
        while request not in self._answers:
            if not self.connected:
                return None
            yield None
        return self._answers.pop(request)

    def _send(self, event: ev.Event) -> None:
        self._sent_ns = max(self._sent_ns, self._world.now_ns + self._rng.randint(0, 2))
        self._world.after(self._sent_ns - self._world.now_ns, partial(self._arrive, event))

    def _arrive(self, event: ev.Event) -> None:
        if self.connected:
            self._world.feed(event)

    # ---- its time

    def _wake(self) -> None:
        if self._listening:
            self._resume()

    def _resume(self) -> None:
        self._listening = False
        if self.gone:
            return
        busy_ns = next(self._life, -1)
        if busy_ns is None:
            self._listening = True
        elif busy_ns >= 0:
            if self._rng.random() < self._world.mediums.faults.stalled:
                busy_ns += self._rng.randint(0, _STALL_NS)
            self._world.after(busy_ns, self._resume)


class Prober(Client):
    """Comes when all faults are over: whatever happened, it can publish and read that back."""

    passed = 0

    def _live(self) -> Life:
        for namespace in range(len(LAYOUTS)):
            keys = chain_to(namespace, b"zz")
            fetched = ev.Fetched(0, 0, 0, (), None)
            for _ in keys:  # A region on its way back makes a grant shorter, but never empty.
                if fetched.blocks < len(keys):
                    yield from self._publish_all(namespace, keys)
                    request = self._world.next_request()
                    fetch = ev.Fetch(self.number, request, namespace, keys, 0, None)
                    body = yield from self._ask(request, fetch)
                    assert isinstance(body, ev.Fetched), body
                    fetched = body
                    if fetched.blocks < len(keys):
                        self._send(ev.Release(self.number, fetched.lease))
            assert fetched.blocks == len(keys), ("published and lost", namespace, fetched)
            yield from self._read(namespace, keys, fetched)
            self.passed += 1

    def _publish_all(self, namespace: int, keys: Sequence[BlockKey]) -> Life:
        for part in range(LAYOUTS[namespace].shards):
            request, until_ns = self._world.next_request(), self._world.now_ns + _PATIENCE_NS
            event = ev.Reserve(self.number, request, namespace, keys, part, until_ns)
            body = yield from self._ask(request, event)
            assert isinstance(body, ev.Reserved), body
            assert body.grants or not body.declined, ("no room for the only client", body)
            if body.grants:
                written = yield from self._fill(namespace, keys, body, part)
                yield from self._seal(namespace, written, body, part)


def _spread(namespace: int, runs: Sequence[ev.Run]) -> list[tuple[Place, bool]]:
    return [
        ((run.tier, namespace, run.slot + step), run.pending)
        for run in runs
        for step in range(run.count)
    ]
