"""A daemon under every policy: more is published than fits, and hints are given on the way."""

import pytest

from tests.integration.blocks import LAYOUT, chain, fetch
from tests.integration.conftest import StartDaemon
from tests.integration.test_spill import publish_all
from tierd.core.units import MiB
from tierd_policies.registry import EVICTION

CHAINS = 12


@pytest.mark.parametrize("policy", EVICTION)
def test_serves_right_bytes_whatever_is_evicted(start_daemon: StartDaemon, policy: str) -> None:
    daemon = start_daemon(
        1 * MiB, tiers__host__bytes=64 * LAYOUT.block_bytes, policies__eviction=policy
    )
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        for turn in range(2):
            for seed in range(CHAINS):
                keys = chain(seed, 12 + 8 * turn)
                fetch(kv, keys)
                publish_all(kv, keys)
                kv.end_turn(keys, classes=["system", "tools", "user"], waits_for="tool")
                fetch(kv, keys[:4])
        kv.end_session(chain(0, 20), shared=2)
        status = client.status()
    assert status.namespaces[0].corrupt_blocks == 0
    assert status.tiers[0].evictions > 0
