"""Blocks on disk by both routes at once, whichever of them fails, and layer by layer."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.integration.blocks import chain, content, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.test_spill import publish_all
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.units import KiB, MiB
from tierd_client import BlockKey, Client, Namespace
from tierd_client.segments import SegmentReader
from tierd_client.splitting import Route

LAYERS = 8
DEEP = LayoutSpec("deep", (LayerGroup(layers=LAYERS, kv_heads=4, head_size=512),), block_tokens=16)
"""Blocks of 1 MiB in eight layers of 128 KiB, read in four chunks."""

BLOCKS = 40

SETTINGS: dict[str, object] = {
    "tiers.region_bytes": 4 * MiB,
    "tiers.host.bytes": (BLOCKS + 8) * MiB,
}


def on_disk_only(daemon: Daemon, client: Client) -> tuple[Namespace, list[BlockKey]]:
    """Publish a chain and have it pushed out of host memory by another."""
    kv = client.open(DEEP)
    keys, other = chain(1, BLOCKS, DEEP), chain(2, BLOCKS, DEEP)
    publish_all(kv, keys)
    publish_all(kv, other)
    assert kv.persist(keys) == kv.persist(other) == BLOCKS
    eventually(lambda: kv.match(keys).by_tier.get("disk", 0) >= BLOCKS - 12)
    return kv, keys


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(256 * MiB, **SETTINGS)


def is_right(
    keys: Sequence[BlockKey], into: np.ndarray[tuple[int, int], np.dtype[np.uint8]]
) -> bool:
    return bool(np.array_equal(into[: len(keys)], content(keys, DEEP)))


def test_auto_takes_both_routes_and_says_why(daemon: Daemon) -> None:
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        into = room(keys, DEEP)
        fetched = kv.fetch(keys, into)
    assert fetched.blocks == BLOCKS
    assert is_right(keys, into)
    assert "both together" in fetched.why
    disk = {name: use for name, use in fetched.routes.items() if name.startswith("disk-")}
    assert sum(use.blocks for use in disk.values()) == fetched.by_tier["disk"]
    assert all(use.rate > 0 and use.bytes == use.blocks * MiB for use in disk.values())


@pytest.mark.parametrize("route", ["auto", "staged", "direct"])
def test_each_block_is_read_once(daemon: Daemon, route: Route) -> None:
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        before = moved_to_host(client)
        into = room(keys, DEEP)
        fetched = kv.fetch(keys, into, route=route)
        staged = moved_to_host(client) - before
    assert is_right(keys, into)
    counts = {name: use.blocks for name, use in fetched.routes.items()}
    assert counts.get("disk-staged", 0) == staged
    assert sum(counts.values()) == BLOCKS
    assert not (route == "direct" and staged)
    assert not (route == "staged" and "disk-direct" in counts)


def moved_to_host(client: Client) -> int:
    routes = client.status().routes
    return sum(use.blocks for use in routes if (use.source, use.target) == ("disk", "host"))


@pytest.mark.parametrize("route", ["auto", "direct"])
def test_what_the_client_cannot_read_the_daemon_does(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, route: Route
) -> None:
    """A client without access to the files lost the blocks, though the daemon could read them."""

    def refuses(*_: object) -> list[str]:
        raise OSError(5, "Input/output error")

    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        monkeypatch.setattr(SegmentReader, "read", refuses)
        into = room(keys, DEEP)
        fetched = kv.fetch(keys, into, route=route)
        assert (fetched.blocks, fetched.cut) == (BLOCKS, "")
        assert is_right(keys, into)
        assert "disk-direct" not in fetched.routes
        again = kv.fetch(keys, room(keys, DEEP))
        status = client.status()
    assert "direct left out after a failure: [Errno 5]" in again.why or not again.why
    assert status.namespaces[0].corrupt_blocks == 0


def test_a_daemon_that_goes_silent_is_hedged(start_daemon: StartDaemon) -> None:
    """One slow read held up a whole fetch, while another way to the same bytes stood idle."""
    daemon = start_daemon(256 * MiB, **SETTINGS)
    with daemon.client() as client:
        on_disk_only(daemon, client)
    daemon.stop()
    daemon.options = ["--throttle-disk", str(MiB // 2)]
    daemon.start()
    with daemon.client() as client:
        kv, keys = client.open(DEEP), chain(1, BLOCKS, DEEP)
        into = room(keys, DEEP)
        fetched = kv.fetch(keys, into, deadline_s=20.0)
        assert (fetched.blocks, fetched.cut) == (BLOCKS, "")
        assert is_right(keys, into)
        assert fetched.routes["disk-direct"].blocks >= BLOCKS - 4
        assert fetched.seconds < 20.0


def test_a_disk_slower_than_computing_is_not_read(start_daemon: StartDaemon) -> None:
    """Loading from a slow disk took longer than the prompt would have taken to compute."""
    daemon = start_daemon(256 * MiB, **SETTINGS)
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        into = room(keys, DEEP)
        first = kv.fetch(keys, into, compute_s=1e-6)
        in_memory = kv.match(keys).by_tier["host"]
        assert first.blocks == BLOCKS  # Nothing is known yet.
        publish_all(kv, chain(3, BLOCKS, DEEP))
        spared = kv.fetch(keys, into, compute_s=1e-6)
        worth_it = kv.fetch(keys, into, compute_s=60.0)
    assert in_memory
    assert spared.blocks < BLOCKS
    assert set(spared.by_tier) <= {"host"}
    assert "slower than computing" in spared.why
    assert worth_it.blocks == BLOCKS
    assert is_right(keys, into)


def test_without_a_slot_the_blocks_come_directly(daemon: Daemon) -> None:
    """Blocks that the daemon declined to stage were asked of it again, until the deadline."""
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        with kv.fetch_views(chain(2, BLOCKS, DEEP)) as views:
            assert len(views) == BLOCKS
            into = room(keys, DEEP)
            fetched = kv.fetch(keys, into, deadline_s=20.0)
    assert (fetched.blocks, fetched.cut) == (BLOCKS, "")
    assert is_right(keys, into)
    assert fetched.routes["disk-direct"].blocks > BLOCKS // 2


@pytest.mark.parametrize("route", ["auto", "staged", "direct"])
def test_a_damaged_block_ends_the_prefix_on_every_route(daemon: Daemon, route: Route) -> None:
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        damage(daemon.segments(), content(keys, DEEP)[25].tobytes()[:4096])
        into = room(keys, DEEP)
        fetched = kv.fetch(keys, into, route=route)
        assert fetched.blocks == 25
        assert fetched.cut == "read failed"
        assert is_right(keys[:25], into)
        eventually(lambda: client.status().namespaces[0].corrupt_blocks == 1)
        assert kv.fetch(keys, into, route=route).blocks == 25


def damage(segments: Sequence[Path], start: bytes) -> None:
    """Flip a bit of the block that begins like this."""
    for segment in segments:
        raw = segment.read_bytes()
        if (at := raw.find(start)) >= 0:
            with segment.open("r+b") as file:
                os.pwrite(file.fileno(), bytes([raw[at + 5] ^ 4]), at + 5)
                os.fsync(file.fileno())
            return
    raise AssertionError("no such block on disk")


def test_layers_of_blocks_in_memory_and_on_disk_come_in_order(daemon: Daemon) -> None:
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        hot = chain(3, 4, DEEP)
        publish_all(kv, hot)
        for each in (keys, hot):
            into = room(each, DEEP)
            wanted = content(each, DEEP)
            seen = []
            with kv.fetch_layers(each, into) as fetch:
                assert fetch.blocks == len(each)
                for layer in fetch.layers():
                    seen.append(layer)
                    here = slice(layer * 128 * KiB, (layer + 1) * 128 * KiB)
                    assert np.array_equal(into[:, here], wanted[:, here])
            assert seen == list(range(LAYERS))
            result = fetch.result()
            assert (result.blocks, result.cut) == (len(each), "")
            assert 0 < fetch.first_s <= result.seconds
            assert sum(use.bytes for use in result.routes.values()) == wanted.nbytes
        eventually(lambda: client.status().leases == 0)


def test_a_damaged_layer_is_never_yielded(daemon: Daemon) -> None:
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        fifth = content(keys, DEEP)[25].tobytes()[4 * 128 * KiB :][:4096]
        damage(daemon.segments(), fifth)
        into = room(keys, DEEP)
        with kv.fetch_layers(keys, into) as fetch:
            seen = list(fetch.layers())
        assert seen in ([], [0, 1], [0, 1, 2, 3])  # Two layers a chunk, read ahead.
        assert (fetch.result().blocks, fetch.result().cut) == (0, "read failed")
        eventually(lambda: client.status().namespaces[0].corrupt_blocks == 1)
        with kv.fetch_layers(keys, into) as again:
            assert len(list(again.layers())) == LAYERS
        assert again.blocks == again.result().blocks == 25


def test_layers_that_nobody_wants_any_more_leave_no_lease(daemon: Daemon) -> None:
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        with kv.fetch_layers(keys, room(keys, DEEP)) as fetch:
            assert next(fetch.layers()) == 0
        eventually(lambda: client.status().leases == 0)
        with kv.fetch_layers(chain(9, 3, DEEP), room(keys, DEEP)) as nothing:
            assert (nothing.blocks, list(nothing.layers())) == (0, [])


def test_layers_over_tcp_come_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(listen__tcp="127.0.0.1:0", tiers__host__bytes=16 * MiB)
    keys = chain(1, 3, DEEP)
    with daemon.client(daemon.tcp) as client:
        kv = client.open(DEEP)
        publish_all(kv, keys)
        into = room(keys, DEEP)
        with kv.fetch_layers(keys, into) as fetch:
            assert list(fetch.layers()) == list(range(LAYERS))
        assert is_right(keys, into)
