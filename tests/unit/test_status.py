"""The status says what the store holds, and what went over its routes."""

from tierd.control import events as ev
from tierd.control.config import Limits, StoreConfig, TierConfig
from tierd.control.policies import Policies
from tierd.control.store import Store
from tierd.core.keys import chain_keys
from tierd.core.layouts import opaque_layout
from tierd.core.units import PAGE_BYTES
from tierd.service.status import DaemonFacts, TierUse, build_status, hit_rate, status_json
from tierd.transfer.usage import RouteUse, Stopwatch, Wear
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.promotion import PromoteOnHit
from tierd_proto.v1 import tierd_pb2 as pb

HOST, DISK = 0, 1
LAYOUT = opaque_layout("text", block_tokens=4, token_bytes=PAGE_BYTES // 4)
KEYS = chain_keys(LAYOUT.root, range(32), LAYOUT.block_tokens)


def a_store() -> Store:
    tiers = (
        TierConfig("host", 16 * PAGE_BYTES, 4 * PAGE_BYTES, mapped=True),
        TierConfig("disk", 64 * PAGE_BYTES, 16 * PAGE_BYTES, mapped=False),
    )
    policies = Policies(ChainLRU, AlwaysAdmit, PromoteOnHit())
    store = Store(StoreConfig(tiers, HOST, policies, Limits(), 10**9, 10**9))
    store.handle(ev.OpenSession(1, None), 0)
    store.handle(ev.OpenNamespace(1, 1, "text", LAYOUT), 0)
    return store


def status_of(
    store: Store,
    now_ns: int = 1_000,
    disk: TierUse | None = None,
    routes: dict[tuple[int, int], RouteUse] | None = None,
) -> pb.StatusReply:
    mediums = ("shared memory", "segments")
    facts = DaemonFacts("0.1.0", bytes(16), 4711, 1_000, ("unix:/t",), mediums)
    return build_status(store, facts, (TierUse(), disk or TierUse()), routes or {}, now_ns)


def fetch_and_reserve(store: Store, blocks: int) -> ev.Fetched:
    actions = store.handle(ev.Fetch(1, 2, 0, KEYS[:blocks], 0, 0), 0)
    [fetched] = [a.body for a in actions if isinstance(a, ev.Reply)]
    assert isinstance(fetched, ev.Fetched)
    return fetched


def publish(store: Store, blocks: int) -> list[ev.Move]:
    """Publish the first blocks, and return the moves that write them to disk."""
    reserved = fetch_and_reserve(store, blocks).reserved
    assert reserved is not None
    actions = store.handle(ev.Seal(1, 0, reserved.lease, blocks), 0)
    return [move for a in actions if isinstance(a, ev.StartMoves) for move in a.moves]


def land(store: Store, moves: list[ev.Move]) -> None:
    store.handle(ev.MovesDone([ev.MoveDone(move.move, None) for move in moves]), 0)


def test_says_who_answers_and_for_how_long() -> None:
    reply = status_of(a_store(), now_ns=5_000)
    assert (reply.version, reply.pid, reply.boot) == ("0.1.0", 4711, bytes(16))
    assert reply.uptime_ns == 4_000
    assert list(reply.listens) == ["unix:/t"]
    assert [(tier.name, tier.medium) for tier in reply.tiers] == [
        ("host", "shared memory"),
        ("disk", "segments"),
    ]
    assert hit_rate(reply) is None


def test_counts_a_reserved_slot_as_used_and_not_as_a_block() -> None:
    store = a_store()
    fetch_and_reserve(store, 3)
    reply = status_of(store)
    assert (reply.tiers[HOST].blocks, reply.tiers[HOST].bytes_used) == (0, 3 * PAGE_BYTES)
    assert reply.namespaces[0].blocks == 0
    assert reply.leases == 1


def test_counts_a_block_under_way_where_it_is_and_not_where_it_goes() -> None:
    store = a_store()
    moves = publish(store, 3)
    before = status_of(store)
    land(store, moves)
    after = status_of(store)
    assert [tier.blocks for tier in before.tiers] == [3, 0]
    assert [tier.blocks for tier in after.tiers] == [3, 3]
    assert before.tiers[DISK].bytes_used == after.tiers[DISK].bytes_used == 3 * PAGE_BYTES
    assert after.namespaces[0].blocks == 3  # Two copies of each are still three blocks.
    assert after.namespaces[0].blocks_published == 3


def test_tokens_asked_are_the_sum_of_what_came_of_them() -> None:
    store = a_store()
    publish(store, 3)
    fetch_and_reserve(store, 5)
    reply = status_of(store)
    [space] = reply.namespaces
    assert (space.requests, space.tokens_asked) == (2, 32)
    assert list(space.tokens_hit) == [12, 0]
    assert space.tokens_asked == sum(space.tokens_hit) + space.tokens_missed
    assert hit_rate(reply) == 12 / 32
    assert reply.leased_blocks == 2 * 3  # Held to be read, and as parents of what is written.


def test_evicted_blocks_are_no_longer_held() -> None:
    store = a_store()
    land(store, publish(store, 3))
    other = chain_keys(LAYOUT.root, range(100, 164), LAYOUT.block_tokens)
    store.handle(ev.Fetch(1, 2, 0, other, 0, 0), 0)
    reply = status_of(store)
    assert [(tier.blocks, tier.evictions) for tier in reply.tiers] == [(0, 3), (3, 0)]
    assert reply.namespaces[0].blocks == 3


def test_an_offline_tier_comes_with_its_cause() -> None:
    store = a_store()
    store.handle(ev.TierFaulted(DISK, "EIO"), 0)
    use = TierUse("EIO", 3, Wear(payload_bytes=70, medium_bytes=77))
    disk = status_of(store, disk=use).tiers[DISK]
    assert (disk.online, disk.state, disk.cause, disk.faults) == (False, "offline", "EIO", 3)
    assert (disk.bytes_written, disk.payload_bytes_written) == (77, 70)
    store.handle(ev.TierReadOnly(DISK, "ENOSPC"), 0)
    disk = status_of(store).tiers[DISK]
    assert (disk.online, disk.state) == (True, "read-only")


def test_routes_have_the_names_of_their_tiers() -> None:
    routes = {(DISK, HOST): RouteUse(blocks=2, bytes=8192, busy_ns=5, failed=1)}
    [route] = status_of(a_store(), routes=routes).routes
    assert (route.source, route.target) == ("disk", "host")
    assert (route.blocks, route.bytes, route.busy_ns, route.failed) == (2, 8192, 5, 1)


def test_json_has_every_field_and_counts_as_numbers() -> None:
    store = a_store()
    fetch_and_reserve(store, 1)
    fields = status_json(status_of(store, now_ns=2_000))
    assert fields["boot"] == "00" * 16
    assert fields["uptime_ns"] == 1_000
    assert fields["routes"] == []
    assert fields["namespaces"][0]["tokens_hit"] == [0, 0]
    assert fields["tiers"][HOST]["online"] is True
    assert fields["hit_rate"] == 0.0


def test_moves_that_overlap_make_a_route_busy_once() -> None:
    use = RouteUse()
    watch = Stopwatch(use)
    watch.begin(100)
    watch.begin(120)
    watch.end(150, 1, 10, 0)
    assert use.busy_ns == 50  # Shown though the route is still busy.
    watch.end(200, 2, 20, 1)
    watch.begin(1000)
    watch.end(1001, 1, 10, 0)
    assert use == RouteUse(blocks=4, bytes=40, busy_ns=101, failed=1)
