"""A fetch into GPU memory, by every route, from a daemon that is a process of its own."""

from collections.abc import Iterator

import pytest

from tests.gpu import child
from tests.gpu.conftest import Call
from tests.integration.blocks import LAYOUT, ODD, chain, content, fetch, publish
from tests.integration.daemons import PATIENCE_S, Daemon
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.units import KiB, MiB
from tierd_client.splitting import Route

BLOCKS = 24


@pytest.fixture
def layout() -> LayoutSpec:
    """Parts that are no whole pages, unless a test says otherwise."""
    return ODD


@pytest.fixture
def keys(layout: LayoutSpec) -> list[BlockKey]:
    return chain(7, min(BLOCKS, 4 * MiB // layout.part_bytes), layout)


@pytest.fixture
def daemon(layout: LayoutSpec, keys: list[BlockKey]) -> Iterator[Daemon]:
    """A daemon that was started anew, so that the chain is on its disk alone."""
    region = 4 * MiB if layout.block_bytes > 64 * KiB else 64 * KiB
    running = Daemon(
        64 * MiB,
        tiers__host__bytes=16 * region,
        tiers__region_bytes=region,
        tiers__disk__gpu_sums="always",
        listen__tcp="127.0.0.1:0",
    )
    try:
        with running.client() as client:
            kv = client.open(layout)
            publish(kv, keys)
            assert kv.persist(keys) == len(keys)
        running.restart()
        yield running
    finally:
        running.end()


def parts_of(keys: list[BlockKey], layout: LayoutSpec) -> list[bytes]:
    return [bytes(part) for part in content(keys, layout)]


@pytest.mark.parametrize("layout", [LAYOUT, ODD], ids=["pages", "odd"])
def test_every_byte_is_right_by_every_route(
    call: Call, daemon: Daemon, layout: LayoutSpec, keys: list[BlockKey]
) -> None:
    """What is staged is in the host tier afterwards, and is copied from there."""
    routes: list[Route] = ["direct", "auto", "staged"]
    for route in routes:
        got = call(child.fetch, daemon.address, layout, keys, route, PATIENCE_S)
        assert (got.blocks, got.outcome.causes) == (BLOCKS, [""])
        assert got.outcome.parts == parts_of(keys, layout)
        assert got.outcome.are_guards_whole
        if route == "direct":
            assert got.mechanisms.keys() == {"disk-direct"}
            assert got.mechanisms["disk-direct"] in ("gds", "compat")
    got = call(child.fetch, daemon.address, layout, keys, "auto", PATIENCE_S)
    assert got.outcome.parts == parts_of(keys, layout)
    assert got.mechanisms == {"host": ""}


LAYERS = LayoutSpec(
    "layers", (LayerGroup(layers=3, kind="recurrent", state_bytes=300_001),), block_tokens=16
)


@pytest.mark.parametrize("layout", [LAYERS], ids=["layers"])
def test_layers_come_one_after_another(
    call: Call, daemon: Daemon, layout: LayoutSpec, keys: list[BlockKey]
) -> None:
    """From the disk, and then from the host tier."""
    assert len(layout.chunks) == 3
    for route in ("", "staged"):
        if route:
            call(child.fetch, daemon.address, layout, keys, route, PATIENCE_S)
        got = call(child.fetch_layers, daemon.address, layout, keys)
        assert (got.blocks, got.layers, got.outcome.causes) == (len(keys), [0, 1, 2], [""])
        assert got.outcome.parts == parts_of(keys, layout)
        assert got.outcome.are_guards_whole


def test_without_kvikio_bytes_go_through_the_cpu(
    call: Call, daemon: Daemon, layout: LayoutSpec, keys: list[BlockKey]
) -> None:
    got = call(child.fetch_without_kvikio, daemon.address, layout, keys, "direct", PATIENCE_S)
    assert got.outcome.parts == parts_of(keys, layout)
    assert got.mechanisms == {"disk-direct": "bounced"}


def test_near_the_deadline_reads_go_beside(
    call: Call, daemon: Daemon, layout: LayoutSpec, keys: list[BlockKey]
) -> None:
    """A read into the caller's memory cannot be taken back: late ones are copied in, or not."""
    got = call(child.fetch, daemon.address, layout, keys, "direct", 0.9)
    assert got.outcome.parts[: got.blocks] == parts_of(keys[: got.blocks], layout)
    assert got.outcome.are_guards_whole


def test_a_damaged_block_ends_the_prefix(
    call: Call, daemon: Daemon, layout: LayoutSpec, keys: list[BlockKey]
) -> None:
    [sealed] = parts_of(keys[5:6], layout)
    [segment] = [file for file in daemon.segments() if sealed in file.read_bytes()]
    damaged = bytearray(sealed)
    damaged[100] ^= 1
    segment.write_bytes(segment.read_bytes().replace(sealed, damaged))
    got = call(child.fetch, daemon.address, layout, keys, "direct", PATIENCE_S)
    assert (got.blocks, got.outcome.causes) == (5, ["read failed"])
    assert got.outcome.parts[:5] == parts_of(keys[:5], layout)


def test_blocks_are_published_from_gpu_memory(
    call: Call, daemon: Daemon, layout: LayoutSpec
) -> None:
    """From a GPU, and seen by a client that has none; over the network, too."""
    for seed, address in ((8, daemon.address), (9, daemon.tcp)):
        keys = chain(seed, 3, layout)
        assert call(child.publish, address, layout, keys, parts_of(keys, layout)) == 3
        with daemon.client() as client:
            assert fetch(client.open(layout), keys) == 3


def test_a_daemon_on_another_host_is_no_way_to_a_gpu(
    call: Call, daemon: Daemon, layout: LayoutSpec, keys: list[BlockKey]
) -> None:
    said = call(child.refusal_of_remote, daemon.tcp, layout, keys)
    assert "fetch into CPU memory" in said
