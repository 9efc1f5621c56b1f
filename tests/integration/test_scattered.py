"""Blocks go straight into an engine's pages, and come out of them, by whichever route."""

import numpy as np
import pytest

from tests.integration.blocks import chain, content
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon
from tests.integration.test_dual_path import BLOCKS, DEEP, LAYERS, SETTINGS, on_disk_only
from tierd.core.units import MiB
from tierd_client import BlockKey, Scattered, connect
from tierd_client.splitting import Route

PAGE = DEEP.part_bytes // LAYERS


class Pages:
    """An engine's pages: those of a layer after those of another, in any order."""

    def __init__(self, seed: int) -> None:
        self.memory = np.zeros((LAYERS, 2 * BLOCKS, PAGE), np.uint8)
        chosen = np.random.default_rng(seed).permutation(2 * BLOCKS)
        self._table = [int(page) for page in chosen[:BLOCKS]]

    def places(self, first: int = 0) -> Scattered:
        """Return where blocks from `first` on are."""
        base = self.memory.ctypes.data
        blocks = [
            [
                (base + (layer * 2 * BLOCKS + page) * PAGE, layer * PAGE, PAGE)
                for layer in range(LAYERS)
            ]
            for page in self._table[first:]
        ]
        return Scattered(blocks, DEEP.part_bytes)

    def blocks(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """Return what is in the pages, and see that nothing is in others."""
        others = [page for page in range(2 * BLOCKS) if page not in self._table]
        assert not self.memory[:, others].any()
        return self.memory[:, self._table].transpose(1, 0, 2).reshape(BLOCKS, DEEP.part_bytes)

    def fill(self, keys: list[BlockKey]) -> None:
        """Put in what the blocks of `keys` hold."""
        whole = content(keys, DEEP).reshape(BLOCKS, LAYERS, PAGE)
        self.memory[:, self._table] = whole.transpose(1, 0, 2)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(256 * MiB, **SETTINGS)


@pytest.mark.parametrize("first", [0, 7])
def test_pages_are_published_and_filled(daemon: Daemon, first: int) -> None:
    keys = chain(3, BLOCKS, DEEP)
    source, target = Pages(1), Pages(2)
    source.fill(keys)
    with daemon.client() as client:
        kv = client.open(DEEP)
        assert kv.publish(keys, source.places(), wait_s=2).blocks == BLOCKS
        fetched = kv.fetch(keys, target.places(first), first=first)
    assert (fetched.blocks, list(fetched.routes)) == (BLOCKS - first, ["host"])
    assert np.array_equal(target.blocks()[first:], content(keys, DEEP)[first:])
    assert not target.blocks()[:first].any()


@pytest.mark.parametrize("deadline_s", [60.0, 0.9], ids=["time to spare", "little time"])
@pytest.mark.parametrize("route", ["direct", "staged", "auto"])
def test_blocks_come_from_disk(daemon: Daemon, route: Route, deadline_s: float) -> None:
    target = Pages(4)
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        fetched = kv.fetch(keys, target.places(), route=route, deadline_s=deadline_s)
        came = fetched.blocks
    assert came == BLOCKS or fetched.cut == "deadline"
    assert np.array_equal(target.blocks()[:came], content(keys, DEEP)[:came])


def test_blocks_come_layer_by_layer(daemon: Daemon) -> None:
    target = Pages(5)
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        with kv.fetch_layers(keys, target.places()) as layers:
            for layer in layers.layers():
                wanted = content(keys, DEEP)[:, layer * PAGE : (layer + 1) * PAGE]
                assert np.array_equal(target.blocks()[:, layer * PAGE : (layer + 1) * PAGE], wanted)


def test_blocks_come_over_the_network(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(tiers__host__bytes=128 * MiB, listen__tcp="127.0.0.1:0")
    keys, target = chain(6, BLOCKS, DEEP), Pages(6)
    source = Pages(7)
    source.fill(keys)
    with connect(daemon.tcp) as client:
        kv = client.open(DEEP)
        assert kv.publish(keys, source.places(), wait_s=2).blocks == BLOCKS
        assert kv.fetch(keys, target.places()).blocks == BLOCKS
    assert np.array_equal(target.blocks(), content(keys, DEEP))


def test_reads_find_their_memory_ready(daemon: Daemon) -> None:
    target = Pages(8)
    with daemon.client() as client:
        kv, keys = on_disk_only(daemon, client)
        kv.prepare()
        kv.prepare()
        assert kv.fetch(keys, target.places(), route="direct").blocks == BLOCKS
    assert np.array_equal(target.blocks(), content(keys, DEEP))
