"""A daemon to measure, a client of it, and blocks in it."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from tierd.core.errors import TierdError
from tierd.core.units import PAGE_BYTES, MiB, round_up
from tierd_bench.bench.limits import Blocks
from tierd_bench.bench.sizes import Sizes
from tierd_bench.bench.throttled import Throttle, ThrottledClient
from tierd_bench.replay.content import BlockContent
from tierd_bench.replay.embedded import embedded_daemon
from tierd_client import (
    BlockKey,
    Client,
    Fetched,
    LayerGroup,
    LayoutSpec,
    Namespace,
    connect,
)
from tierd_client.splitting import Route

BLOCK_TOKENS: Final = 16
NAME: Final = "bench"
"""Of the one namespace."""

SEED: Final = 0
"""Every run makes the same chains and the same bytes."""

WAIT_S: Final = 10.0
"""For a call that is to succeed."""

_HOLD_WITHIN_S: Final = 30.0
_REGIONS_WANTED: Final = 8
_REGION_BYTES_MAX: Final = 64 * MiB
_LEASE_S: Final = 600.0


@dataclass(eq=False)
class NotMeasured(TierdError):
    """Something did not come out as the measurement needs it, so there is no figure."""

    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Scene:
    """What a stage is set with. Units: bytes; a disk of 0 is none."""

    block_bytes: int
    host_bytes: int
    disk_bytes: int = 0
    throttle: Throttle | None = None
    layers: int = 1

    def layout(self) -> LayoutSpec:
        """Return the layout of the one namespace."""
        size = self.block_bytes // BLOCK_TOKENS // self.layers
        group = LayerGroup(self.layers, kv_heads=1, head_size=size, planes=1)
        return LayoutSpec(NAME, (group,), BLOCK_TOKENS, dtype="uint8")

    def settings(self) -> list[str]:
        """Return it as the daemon's settings, with several regions in every tier."""
        tiers = [size for size in (self.host_bytes, self.disk_bytes) if size]
        # A disk's region holds a header page a slot besides the blocks.
        slot = self.block_bytes + PAGE_BYTES
        region = max(min(min(tiers) // _REGIONS_WANTED, _REGION_BYTES_MAX), slot)
        return [
            f"tiers.region_bytes={round_up(region, PAGE_BYTES)}",
            f"tiers.host.bytes={self.host_bytes}",
            f"tiers.disk.bytes={self.disk_bytes}",
            # Nobody else reads while a row does.
            "tiers.disk.scrub_bytes_per_s=0",
            f"leases.read_s={_LEASE_S}",
        ]


class Stage:
    """A daemon with one namespace, for the rows that share a scene.

    `directory` is on the disk under test. `tell` is called by a measure after each of its runs,
    and set for each.
    """

    def __init__(
        self, address: str, client: Client, scene: Scene, sizes: Sizes, directory: Path
    ) -> None:
        self.address: Final = address
        self.client: Final = client
        self.scene: Final = scene
        self.sizes: Final = sizes
        self.directory: Final = directory
        self.tell: Callable[[], None] = _nobody_listens
        self.daemon_pid: Final = client.status().pid
        self.namespace: Final[Namespace] = client.open(scene.layout(), NAME)
        self._content: Final = BlockContent(scene.block_bytes)
        self._numbers: Final = count(SEED)
        self._held: Final[dict[tuple[int, int], list[list[BlockKey]]]] = {}

    def fresh(self, blocks: int) -> list[BlockKey]:
        """Return the keys of a chain that nobody has asked for yet."""
        return self.namespace.keys(np.full(blocks * BLOCK_TOKENS, next(self._numbers), np.uint32))

    def warm(self, blocks: int) -> Blocks:
        """Return memory of this process for so many blocks, its pages touched."""
        return np.ones((blocks, self.scene.block_bytes), np.uint8)

    def held(self, chains: int, blocks: int) -> list[list[BlockKey]]:
        """Return chains that the daemon holds, with the bytes of their keys; made once.

        Raises:
            NotMeasured: the daemon did not take them.
        """
        made = self._held.setdefault((chains, blocks), [])
        while len(made) < chains:
            chain = self.fresh(blocks)
            self.hold(chain, self.filled(chain))
            made.append(chain)
        return made

    def filled(self, chain: Sequence[BlockKey]) -> Blocks:
        """Return the bytes of a chain's blocks."""
        blocks = np.empty((len(chain), self.scene.block_bytes), np.uint8)
        self._content.fill([block.data for block in blocks], chain)
        return blocks

    def hold(self, chain: Sequence[BlockKey], blocks: Blocks) -> None:
        """Publish a chain bit by bit, as room for it comes.

        Raises:
            NotMeasured: not all of it was taken in time.
        """
        until_s = time.monotonic() + _HOLD_WITHIN_S
        while (held := self.namespace.match(chain).blocks) < len(chain):
            if time.monotonic() > until_s:
                raise NotMeasured(f"of {len(chain)} fresh blocks {held} were taken")
            self.namespace.publish(chain, blocks, wait_s=WAIT_S)

    def publish(self, chain: Sequence[BlockKey], blocks: Blocks) -> None:
        """Publish a whole chain.

        Raises:
            NotMeasured: the daemon did not take all of it.
        """
        published = self.namespace.publish(chain, blocks, wait_s=WAIT_S)
        if published.blocks < len(chain):
            raise NotMeasured(f"of {len(chain)} fresh blocks {published.blocks} were published")

    def fetch(self, chain: Sequence[BlockKey], into: Blocks, route: Route = "auto") -> Fetched:
        """Fetch a whole chain; return how it came.

        Raises:
            NotMeasured: not all of it came.
        """
        fetched = self.namespace.fetch(chain, into, deadline_s=WAIT_S, route=route)
        if fetched.blocks < len(chain):
            why = fetched.cut or "the rest is not held"
            raise NotMeasured(f"of {len(chain)} held blocks {fetched.blocks} came: {why}")
        return fetched

    def check(self, chain: Sequence[BlockKey], found: Blocks) -> None:
        """Return if `found` holds the bytes of `chain`.

        Raises:
            NotMeasured: it does not.
        """
        if wrong := self._content.corrupt_pages(found, chain):
            raise NotMeasured(f"wrong bytes came: {wrong[0]}")


@contextmanager
def set_stage(scene: Scene, sizes: Sizes, directory: Path | None) -> Iterator[Stage]:
    """Start a daemon for a scene, with its files in a folder of their own in `directory`.

    Raises:
        DaemonFailed: it did not start.
    """
    throttle = scene.throttle
    options = [f"--throttle-disk={throttle.staged}"] if throttle else []
    with (
        tempfile.TemporaryDirectory(prefix="tierd-bench-", dir=directory) as place,
        embedded_daemon(scene.settings(), Path(place) / "blocks", options) as daemon,
        _client(daemon.address, throttle) as client,
    ):
        yield Stage(daemon.address, client, scene, sizes, Path(place))


def _client(address: str, throttle: Throttle | None) -> Client:
    return ThrottledClient(address, throttle.direct) if throttle else connect(address)


def _nobody_listens() -> None:
    pass
