"""What one process publishes, another fetches, byte for byte."""

from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.blocks import LAYOUT, ODD, SHARDED, chain, content, fetch, publish, room
from tests.integration.blocks import tokens as tokens_of
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.integration.peers import Peer
from tierd.core.units import MiB
from tierd_client import (
    BlockKey,
    Client,
    InvalidRequest,
    LayoutSpec,
    Namespace,
    NamespaceConflict,
    Reservation,
    connect,
    opaque_layout,
)
from tierd_proto.v1 import tierd_pb2 as pb


def _publish(
    pipe: "Connection[Any, Any]", address: str, layouts: list[LayoutSpec], seed: int, part: int
) -> None:
    with connect(address) as client:
        for layout in layouts:
            pipe.send(publish(client.open(layout), chain(seed, 40, layout), part))


@pytest.mark.parametrize(
    ("disk_bytes", "device_bytes"),
    [(0, 0), (16 * MiB, 0), (16 * MiB, 1 * MiB)],
    ids=["host", "host, disk", "device, host, disk"],
)
def test_another_process_finds_the_same_bytes(
    start_daemon: StartDaemon, disk_bytes: int, device_bytes: int
) -> None:
    daemon = start_daemon(disk_bytes, tiers__device__bytes=device_bytes)
    layouts = [LAYOUT, ODD]
    with Peer(_publish, daemon.address, layouts, 1, 0) as peer:
        assert [peer.take(), peer.take()] == [40, 40]
    with daemon.client() as client:
        for layout in layouts:
            kv = client.open(layout)
            keys = chain(1, 50, layout)
            assert fetch(kv, keys) == 40
            eventually(partial(_is_all_in, client.tiers[0], kv, keys))
            assert fetch(kv, keys) == 40


def _is_all_in(tier: str, kv: Namespace, keys: list[BlockKey]) -> bool:
    """Fetch `keys`, which makes them hotter, and say whether all are in `tier` now."""
    fetch(kv, keys)
    return kv.match(keys).by_tier == {tier: 40}


@pytest.mark.parametrize("kind", ["array", "tensor", "bytearrays", "memoryview"])
def test_buffers_of_any_kind(client: Client, kind: str) -> None:
    seed = int.from_bytes(kind.encode())
    kv = client.open(ODD)
    keys = chain(seed, 5, ODD)
    source = content(keys, ODD)
    given: dict[str, Any] = {
        "array": source,
        "tensor": torch.from_numpy(source.copy()),
        "bytearrays": [bytearray(row.tobytes()) for row in source],
        "memoryview": memoryview(source.tobytes()),
    }
    empty: dict[str, Any] = {
        "array": room(keys, ODD),
        "tensor": torch.zeros(5, ODD.part_bytes // 2, dtype=torch.bfloat16),
        "bytearrays": [bytearray(ODD.part_bytes) for _ in keys],
        "memoryview": memoryview(bytearray(5 * ODD.part_bytes)),
    }
    assert kv.publish(tokens_of(seed, 5), given[kind]).blocks == 5
    into = empty[kind]
    assert kv.fetch(tokens_of(seed, 5), into).blocks == 5
    if kind == "tensor":
        found = into.view(torch.uint8).numpy().tobytes()
    else:
        found = b"".join(bytes(item) for item in into) if kind == "bytearrays" else bytes(into)
    assert found == source.tobytes()


def test_each_shard_writes_and_reads_its_part(shared_daemon: Daemon, client: Client) -> None:
    kv = client.open(SHARDED)
    keys = chain(2, 40, SHARDED)
    with Peer(_publish, shared_daemon.address, [SHARDED], 2, 0) as peer:
        assert peer.take() == 40
        assert kv.match(keys).blocks == 0, "half a block is none"
        with Peer(_publish, shared_daemon.address, [SHARDED], 2, 1) as other:
            assert other.take() == 40
    assert fetch(kv, keys, part=0) == 40
    assert fetch(kv, keys, part=1) == 40


def test_what_is_held_is_not_written_again(client: Client) -> None:
    kv = client.open(LAYOUT)
    publish(kv, chain(3, 10))
    keys = chain(3, 15)
    published = kv.publish(keys, content(keys))
    assert (published.blocks, published.held) == (5, 10)
    tail = chain(3, 20)
    assert kv.publish(tail, content(tail[15:]), first=15).blocks == 5
    assert fetch(kv, tail) == 20


def test_a_name_taken_by_another_layout_says_how_they_differ(client: Client) -> None:
    client.open(opaque_layout("one", block_tokens=16, token_bytes=256), "mine")
    with pytest.raises(NamespaceConflict) as caught:
        client.open(opaque_layout("other", block_tokens=32, token_bytes=256), "mine")
    assert caught.value.differences == ("model: 'one', not 'other'", "block_tokens: 16, not 32")


@pytest.mark.parametrize(
    "wrong",
    [
        room(chain(4, 3)),
        [bytearray(4096)] * 3,
        [bytearray(4096)] * 3 + [bytearray(1)],
        np.zeros((4, 2 * 4096), np.uint8)[:, ::2],
        torch.zeros(4, 8192, dtype=torch.uint8)[:, ::2],
        b"".join([bytes(4096)] * 4),
        "four blocks",
    ],
    ids=["small", "few", "one small", "strided", "strided tensor", "read-only", "no buffer"],
)
def test_buffers_that_do_not_fit_are_refused_by_name(client: Client, wrong: object) -> None:
    kv = client.open(LAYOUT)
    with pytest.raises(InvalidRequest, match=r"^(buffer|buffers|tensor) is "):
        kv.fetch(chain(4, 4), wrong)


def test_too_many_keys_are_refused(client: Client) -> None:
    kv = client.open(LAYOUT)
    with pytest.raises(InvalidRequest, match=r"^keys is 2001 keys: send at most 2000"):
        kv.match(chain(5, 2001))
    with pytest.raises(InvalidRequest, match="keys"):
        kv.reserve(chain(5, 2001))
    with pytest.raises(InvalidRequest, match="keys"):
        kv.fetch_views(chain(5, 2001))


def test_a_part_that_the_layout_lacks_is_refused(client: Client) -> None:
    kv = client.open(SHARDED)
    with pytest.raises(InvalidRequest, match="part"):
        kv.reserve(chain(6, 2, SHARDED), part=2)
    with pytest.raises(InvalidRequest, match="part"):
        kv.fetch(chain(6, 2, SHARDED), room(chain(6, 2, SHARDED), SHARDED), part=2)


def test_nothing_asked_is_nothing_found(client: Client) -> None:
    kv = client.open(LAYOUT)
    assert kv.match([]).blocks == 0
    assert kv.fetch([], bytearray()).blocks == 0
    assert kv.publish([], bytearray()).blocks == 0
    assert len(kv.fetch_views([])) == 0
    assert kv.reserve([]).indices == ()
    assert kv.fetch([1, 2, 3], bytearray()).blocks == 0, "less than a block of tokens"


def test_what_may_not_be_written_any_more_is_declined(client: Client) -> None:
    connection = client.connection()
    assert connection is not None
    assert connection.memory is not None
    connection.memory.close()
    granted = pb.ReserveReply(
        lease=1, declined=2, grant_index=[0, 4], grant_slot=[8, 3], grant_count=[3, 1]
    )
    reservation = Reservation(connection, None, LAYOUT, 0, granted)
    assert (reservation.indices, reservation.declined) == ((), 6)
    assert reservation.seal() == 0
