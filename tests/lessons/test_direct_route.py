"""Lessons 2 and 25: the direct route says what it is, is not needed, and takes little at once."""

import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import Call
from tests.gpu.test_gds import contents, keys_of, layout_of, written
from tests.integration.blocks import LAYOUT, chain, content, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.peers import Peer
from tests.lessons import gpu_child
from tests.lessons.test_damage_trial import ROUTES
from tierd.core.units import KiB, MiB
from tierd_client import connect
from tierd_client.gds import GdsSettings
from tierd_client.splitting import Route

KEYS = chain(1, 40)


def _fetch_without_gds(pipe: "Connection[Any, Any]", address: str, route: Route) -> None:
    """Fetch, in a process that has neither kvikio nor torch."""
    sys.modules["kvikio"] = sys.modules["torch"] = None  # type: ignore[assignment]
    with connect(address) as client:
        into = room(KEYS)
        fetched = client.open(LAYOUT).fetch(KEYS, into, route=route)
        is_right = np.array_equal(into, content(KEYS))
        pipe.send((fetched.blocks, is_right, set(fetched.routes)))


@pytest.mark.parametrize("route", ROUTES)
def test_lesson_02_the_disk_tier_needs_no_gds(start_daemon: StartDaemon, route: Route) -> None:
    """dynamo#6032, #5012: the disk tier took GPUDirect Storage for granted, and where there was
    none, bringing blocks back hung without a word.

    No GPU, no kvikio, no torch: blocks on disk come by every route, and its name says which it was.
    That a read which gets no answer ends at its deadline is in `tests/gpu/test_gds.py`, where a
    device stalls, and in `test_lesson_13_a_large_fetch_ends_at_its_deadline`.
    """
    daemon = start_daemon(16 * MiB)
    with daemon.client() as client:
        assert publish(client.open(LAYOUT), KEYS) == 40
    daemon.restart()
    with Peer(_fetch_without_gds, daemon.address, route) as peer:
        blocks, is_right, ways = peer.take()
    assert (blocks, is_right) == (40, True)
    ways_of = {"staged": {"disk-staged"}, "direct": {"disk-direct"}}
    assert ways
    assert ways <= ways_of.get(route, {"disk-staged", "disk-direct"})


async def test_lesson_25_few_direct_reads_are_in_flight_and_the_mode_is_shown(
    on_standin: Call, tmp_path: Path
) -> None:
    """nixl PR#2070: in compatibility mode cuFile has 64 bounce buffers; a batch of more reads than
    that waited for one to come free, and all of them waited for each other. nixl#1198, #1333: that
    it was in compatibility mode at all showed nowhere.

    Twelve threads ask for three blocks each of a device that stalls. Two of them are let through,
    nothing waits for itself, and the label says that bytes go through host memory.
    """
    layout = layout_of(64 * KiB)
    segment = await written(tmp_path, layout)
    settings = GdsSettings(mode="compat", threads=1, bounce_bytes=4 * KiB, reads_max=2)
    label, most, causes, parts = on_standin(
        gpu_child.read_from_many_threads, segment, keys_of(3), settings, 12
    )
    assert label == "compat"
    assert most == 2 * 3
    assert causes == [["", "", ""]] * 12
    assert parts == [contents(layout, 3)] * 12
