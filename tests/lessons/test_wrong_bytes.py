"""Lessons 1, 3, 4, 5, 6: bytes that are not the block's are never called the block."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.integration.blocks import LAYOUT, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.peers import Peer
from tests.integration.test_spill import SMALL_HOST, publish_all
from tests.lessons.damage import Disk
from tests.lessons.test_damage_trial import REGION_SLOTS, ROUTES, right
from tierd.core.layouts import LayerGroup
from tierd.core.slots import slot_offset
from tierd.core.units import MiB
from tierd_client import Client, LayoutSpec, Namespace, NamespaceConflict, connect
from tierd_client.splitting import Route

KEYS = chain(1, 40)
POISON = 0xEE


def only_on_disk(daemon: Daemon, *seeds: int) -> Disk:
    """Publish chains of 40, and return their slots. The daemon is stopped."""
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for seed in seeds:
            assert publish(kv, chain(seed, 40)) == 40
    daemon.stop()
    return Disk(daemon.disk, LAYOUT, REGION_SLOTS)


@pytest.mark.parametrize("route", ROUTES)
def test_lesson_01_a_block_that_could_not_be_read_is_not_loaded(
    start_daemon: StartDaemon, route: Route
) -> None:
    """dynamo#15079: registering GPU memory failed, the transfer from disk said so, and its blocks
    were marked as loaded all the same: the model went on with whatever was in that memory.

    Here the file ends before the block does, under a daemon that has it open. That a failing read
    into GPU memory is no block either is in `tests/gpu/test_gds.py`.
    """
    daemon = start_daemon(16 * MiB)
    disk = only_on_disk(daemon, 1)
    slot = disk.records[KEYS[25]]
    region, offset = slot // REGION_SLOTS, slot_offset(slot, REGION_SLOTS, LAYOUT)
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert kv.match(KEYS).blocks == 40
        os.truncate(disk.segments()[region], offset + 5000)
        gone = range(slot, (region + 1) * REGION_SLOTS)
        readable = next(at for at, key in enumerate(KEYS) if disk.records[key] in gone)
        into = room(KEYS)
        into[:] = POISON
        fetched = kv.fetch(KEYS, into, route=route)
        assert (fetched.blocks, fetched.cut) == (readable, "read failed")
        assert sum(fetched.by_tier.values()) == readable
        assert np.array_equal(into[:readable], content(KEYS[:readable]))
        eventually(lambda: kv.match(KEYS).blocks == readable)


@pytest.mark.parametrize("route", ROUTES)
def test_lesson_03_a_block_of_another_conversation_is_never_served(
    start_daemon: StartDaemon, route: Route
) -> None:
    """LMCache#4385: what the disk backend kept in a request's place was another request's, and it
    was given out: one user's context in another's answer.

    Here two slots are exchanged, headers and all, so that both are whole and neither is right.
    """
    daemon = start_daemon(16 * MiB)
    disk = only_on_disk(daemon, 1, 2)
    mine, other = chain(1, 40), chain(2, 40)
    one, two = disk.records[mine[20]], disk.records[other[30]]
    disk.put(one, disk.images[two])
    disk.put(two, disk.images[one])
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert right(kv, mine, route) == 20
        assert right(kv, other, route) == 30
        eventually(lambda: client.status().namespaces[0].corrupt_blocks == 2)


# ---- what was not finished


def _write_in_part(pipe: "Connection[Any, Any]", address: str) -> None:
    """Reserve, write rubbish over half of it, and wait."""
    with connect(address) as client:
        reservation = client.open(LAYOUT).reserve(KEYS)
        for view in reservation.views[:20]:
            view[:] = bytes([POISON]) * len(view)
        pipe.send(len(reservation.indices))
        pipe.recv()
        reservation.abort()
        pipe.send("aborted")
        pipe.recv()


def abort(peer: Peer) -> None:
    peer.go_on()
    assert peer.take() == "aborted"


@pytest.mark.parametrize("end", [abort, Peer.kill, Peer.stop], ids=["aborts", "dies", "hangs"])
def test_lesson_04_what_was_not_stored_whole_is_never_visible(
    start_daemon: StartDaemon, end: Callable[[Peer], None]
) -> None:
    """LMCache#4991: a store to the second level failed half way, its key stayed in the index, and
    later requests loaded the half and produced gibberish.

    The same for a medium that is full is `test_lesson_04_and_10_a_full_disk`.
    """
    daemon = start_daemon(16 * MiB, leases__write_s=0.5)
    with daemon.client() as client, Peer(_write_in_part, daemon.address) as peer:
        kv = client.open(LAYOUT)
        assert peer.take() == 40
        assert kv.match(KEYS).blocks == fetch(kv, KEYS) == 0
        end(peer)
        eventually(lambda: publish(kv, KEYS) == 40)
        assert fetch(kv, KEYS) == 40
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert fetch(kv, KEYS) == kv.match(KEYS).blocks
        assert client.status().namespaces[0].corrupt_blocks == 0


def _load_hastily(kv: Namespace, seed: int) -> int:
    """Fetch with deadlines too short for most, and look at all that was said to have come."""
    rng = Random(seed)
    cut = 0
    for _ in range(30):
        keys = chain(rng.randrange(4), 64)
        into = room(keys)
        into[:] = POISON
        route = rng.choice(ROUTES)
        fetched = kv.fetch(keys, into, deadline_s=rng.choice([0.0, 0.002, 0.01, 5.0]), route=route)
        count = fetched.blocks
        assert np.array_equal(into[:count], content(keys[:count]))
        assert sum(fetched.by_tier.values()) == count
        # All of them are on disk for good, so what is missing was cut off, and that is said.
        assert (count == len(keys)) == (fetched.cut == ""), fetched
        cut += count < len(keys)
    return cut


def test_lesson_05_a_partial_load_is_never_taken_for_a_whole_one(
    start_daemon: StartDaemon,
) -> None:
    """LMCache#3388: under load `retrieve` failed for some chunks, the engine went on as if all had
    come, and the output degenerated."""
    daemon = start_daemon(16 * MiB, tiers__host__bytes=SMALL_HOST)
    with daemon.client() as client, ThreadPoolExecutor(4) as threads:
        kv = client.open(LAYOUT)
        for seed in range(4):
            publish_all(kv, chain(seed, 64))
            assert kv.persist(chain(seed, 64)) == 64
        cut = sum(threads.map(_load_hastily, [kv] * 4, range(4)))
        assert cut > 10, "there was no hurry"
        assert all(fetch(kv, chain(seed, 64)) == 64 for seed in range(4))


# ---- what the bytes mean

BASE = LayoutSpec(
    "model",
    (LayerGroup(layers=2, kv_heads=4, head_size=8),),
    block_tokens=16,
    dtype="float16",
)

SAME_BYTES: dict[str, LayoutSpec] = {
    "dtype": replace(BASE, dtype="bfloat16"),
    "order": replace(BASE, order="planes,heads,tokens,head_size"),
    "groups": replace(BASE, groups=(LayerGroup(layers=2, kv_heads=8, head_size=4),)),
    "revision": replace(BASE, revision="two"),
    "weights_digest": replace(BASE, weights_digest="ab"),
    "tenant": replace(BASE, tenant="another"),
    "salt": replace(BASE, salt="another"),
    "model": replace(BASE, model="another"),
}
"""Layouts whose blocks are of the same size, so that nothing but the meaning differs."""


@pytest.mark.parametrize("field", SAME_BYTES)
def test_lesson_06_another_meaning_of_the_bytes_is_another_namespace(
    client: Client, field: str
) -> None:
    """dynamo#14416, LMCache#4463: an engine's new version arranged its KV otherwise, what the old
    one had stored still matched, and the output was silently wrong."""
    other = SAME_BYTES[field]
    assert other.block_bytes == BASE.block_bytes
    kv = client.open(BASE, "of the engine")
    publish(kv, chain(1, 4, BASE))
    assert fetch(kv, chain(1, 4, BASE)) == 4
    with pytest.raises(NamespaceConflict) as refused:
        client.open(other, "of the engine")
    assert any(each.startswith(f"{field}: ") for each in refused.value.differences)
    upgraded = client.open(other)
    assert upgraded.match(chain(1, 4, other)).blocks == 0
    assert fetch(upgraded, chain(1, 4, BASE)) == 0, "not by the others' keys either"
    publish(upgraded, chain(1, 4, other))
    assert fetch(kv, chain(1, 4, other)) == 0
