"""What a replay needs of a namespace, and no more.

The client's `Namespace` has all of it; the tests bring one that lives in memory and can be told
to serve wrong bytes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tierd.core.keys import BlockKey
from tierd_client import Fetched
from tierd_client.splitting import Route


class Grant(AbstractContextManager["Grant"], Protocol):
    """Slots to write into; given up at the end of the block unless sealed."""

    @property
    def indices(self) -> Sequence[int]: ...
    @property
    def views(self) -> Sequence[memoryview]: ...
    @property
    def declined(self) -> int: ...
    def seal(self) -> int: ...


class Target(Protocol):
    """A namespace to replay against. Thread-safe."""

    def fetch_and_reserve(
        self,
        chain: Sequence[BlockKey],
        into: NDArray[np.uint8],
        *,
        deadline_s: float,
        wait_s: float,
        route: Route,
    ) -> tuple[Fetched, Grant]: ...

    def reserve(self, chain: Sequence[BlockKey], *, wait_s: float) -> Grant: ...
