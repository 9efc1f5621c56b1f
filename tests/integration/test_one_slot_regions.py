"""Regions as small as they may be.

The daemon told a client where the slots of a segment are by looking at where the first two start.
In a region of one slot the "second" was the first again: the distance came out as 0, no reply
could be made of it, and no block of such a segment could be read directly.
"""

import numpy as np

from tests.integration.blocks import LAYOUT, chain, content, publish, room
from tests.integration.conftest import StartDaemon
from tierd.core.slots import slot_stride_bytes
from tierd.core.units import MiB


def test_a_region_of_one_slot_is_read_directly(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB, tiers__region_bytes=slot_stride_bytes(LAYOUT) + 4096)
    keys = chain(1, 5)
    with daemon.client() as client:
        publish(client.open(LAYOUT), keys)
    daemon.restart()
    assert len(daemon.segments()) == len(keys)
    with daemon.client() as client:
        into = room(keys)
        fetched = client.open(LAYOUT).fetch(keys, into, route="direct")
    assert set(fetched.routes) == {"disk-direct"}
    assert fetched.blocks == len(keys)
    assert np.array_equal(into, content(keys))
