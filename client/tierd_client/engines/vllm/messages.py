"""What the two sides of the connector tell each other, through vLLM.

Scheduler to workers, once a step: `Work`. Workers to scheduler, once a step: `Done`; and once, at
the start: `Greeting`. They travel as pickles between processes of one engine.
"""

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from tierd.core.keys import BlockKey


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a request's engine blocks from `first` on, as far as its table reaches.

    `keys` are the chain from its root to the last block that is needed; `table` has for each
    group the pages of all engine blocks up to the end, 0 where nothing is to be written.
    `by_tier` says where the blocks were when they were matched.
    """

    request: str
    keys: list[BlockKey]
    first: int
    table: tuple[list[int], ...]
    by_tier: dict[str, int]


@dataclass(frozen=True, slots=True)
class Save:
    """Publish the blocks of `keys` from `first` on, whose pages `table` has.

    `table` starts at the first engine block of block `first`. The pages stay as they are until
    every worker has said that it has gathered `number`.
    """

    number: int
    keys: list[BlockKey]
    first: int
    table: tuple[list[int], ...]


@dataclass(slots=True)
class Work(KVConnectorMetadata):
    """One step's work. `computes` says whether the engine has anything else to do in it."""

    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
    computes: bool = True


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a load: bytes, seconds, and how many blocks came from which tier.

    `failed` says that something is missing and was named to the engine.
    """

    size: int
    seconds: float
    by_tier: dict[str, int]
    failed: bool


@dataclass(slots=True)
class Done(KVConnectorWorkerMetadata):
    """What workers finished since they last said.

    `gathered` counts, a save, the workers that need its pages no longer; `sealed` the blocks
    that they published of it. `loaded` has the slowest worker's word on each load.
    """

    loaded: dict[str, Loaded] = field(default_factory=dict)
    gathered: dict[int, int] = field(default_factory=dict)
    sealed: dict[int, list[int]] = field(default_factory=dict)

    def aggregate(self, other: "Done") -> "Done":
        """Return what both finished."""
        loaded = dict(self.loaded)
        for request, theirs in other.loaded.items():
            ours = loaded.get(request, theirs)
            slower = ours if ours.seconds >= theirs.seconds else theirs
            failed = ours.failed or theirs.failed
            loaded[request] = Loaded(slower.size, slower.seconds, slower.by_tier, failed)
        gathered = dict(self.gathered)
        for number, count in other.gathered.items():
            gathered[number] = gathered.get(number, 0) + count
        return Done(loaded, gathered, {**self.sealed, **other.sealed})


@dataclass(slots=True)
class Greeting(KVConnectorHandshakeMetadata):
    """A worker's layout, as plain values; None where tierd cannot keep this engine's cache."""

    layout: dict[str, Any] | None
