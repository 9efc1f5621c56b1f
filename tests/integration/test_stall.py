"""A whole daemon, in this process, on a disk that stops answering: nobody waits for it for long."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

import pytest

from tests.integration.blocks import LAYOUT, chain, content, publish, room
from tests.integration.daemons import PATIENCE_S, REGION_BYTES, eventually
from tests.unit.test_faulty import flip
from tierd.core.units import MiB
from tierd.service.config import Config
from tierd.service.daemon import Daemon
from tierd.tiers.faulty import NO_FAULTS, FaultRatios, FaultyTier
from tierd_client import Namespace, connect

BLOCKS = 8
HOST_BLOCKS = 32
STALLED = FaultRatios(stalled=1.0)


class FaultyDaemon(Daemon):
    """A daemon whose disk stalls when it is told to, until `answer` is set."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, lambda point: None, 0)
        self.answer = asyncio.Event()
        self.disk: FaultyTier

    def _build_tiers(self) -> tuple[list[str], list[Any]]:
        names, tiers = super()._build_tiers()
        self.disk = FaultyTier(tiers[-1], Random(0), NO_FAULTS, self._stall, flip)
        return names, [*tiers[:-1], self.disk]

    async def _stall(self) -> None:
        await self.answer.wait()


@pytest.fixture
async def daemon() -> AsyncIterator[FaultyDaemon]:
    place = Path(tempfile.mkdtemp(prefix="tierd-", dir="/tmp"))
    tiers = {
        "region_bytes": REGION_BYTES,
        "host": {"bytes": HOST_BLOCKS * LAYOUT.block_bytes},
        "disk": {"bytes": 16 * MiB, "directories": [place / "disk"], "stall_s": 0.2},
    }
    config = Config.model_validate({"listen": {"unix": str(place / "t.sock")}, "tiers": tiers})
    made = FaultyDaemon(config)
    await made.start()
    yield made
    made.disk.faults = NO_FAULTS
    made.answer.set()
    await made.stop()
    rmtree(place)


def fill(kv: Namespace) -> None:
    """Have chain 0 on disk alone, and chain 7 in memory, too."""
    for seed in range(8):
        assert publish(kv, chain(seed, BLOCKS)) == BLOCKS
        assert kv.persist(chain(seed, BLOCKS), PATIENCE_S) == BLOCKS
    assert kv.match(chain(0, BLOCKS)).by_tier == {"disk": BLOCKS}


def fetched(kv: Namespace, seed: int) -> int:
    """Return how many blocks of a chain come, all of them right."""
    keys = chain(seed, BLOCKS)
    into = room(keys)
    blocks = kv.fetch(keys, into, deadline_s=PATIENCE_S, route="staged").blocks
    assert (into[:blocks] == content(keys[:blocks])).all()
    return blocks


async def test_a_disk_that_stops_answering_holds_up_nobody(daemon: FaultyDaemon) -> None:
    with await asyncio.to_thread(connect, daemon.listens[0], wait_s=PATIENCE_S) as client:
        kv = await asyncio.to_thread(client.open, LAYOUT)
        await asyncio.to_thread(fill, kv)
        daemon.disk.faults = STALLED
        assert await asyncio.to_thread(fetched, kv, 0) == 0
        status = (await asyncio.to_thread(client.status)).tiers[1]
        assert (status.state, status.online) == ("offline", False)
        assert "no answer" in status.cause
        assert await asyncio.to_thread(fetched, kv, 7) == BLOCKS, "memory is served"
        new = chain(20, BLOCKS)
        assert await asyncio.to_thread(publish, kv, new) == BLOCKS
        daemon.disk.faults = NO_FAULTS
        daemon.answer.set()
        await asyncio.to_thread(eventually, lambda: client.status().tiers[1].state == "online")
        assert await asyncio.to_thread(fetched, kv, 0) == BLOCKS
        assert await asyncio.to_thread(kv.persist, new, PATIENCE_S) == BLOCKS
