"""Nodes, engines and requests: the state that the scheduler reads and the stages change."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tierd_bench.cluster.caches import PrefixCache
from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.models import Hardware
from tierd_bench.cluster.resources import Shared, link
from tierd_bench.cluster.workload import Turn

TRAFFIC_BIN_S: Final = 1.0
"""Storage traffic is counted in bins of this length."""


@dataclass(slots=True, eq=False)
class Node:
    """A machine: one storage NIC and its DRAM. `queued` is its read queue in tokens."""

    storage: Shared
    storage_out: Shared
    dram: Shared
    cache: PrefixCache
    queued: int = 0
    traffic: dict[int, int] = field(default_factory=dict)

    def count_read(self, now: float, tokens: int) -> None:
        """Note that so many tokens were just read from storage."""
        bin_ = int(now / TRAFFIC_BIN_S)
        self.traffic[bin_] = self.traffic.get(bin_, 0) + tokens


@dataclass(slots=True, eq=False)
class Engine:
    """A GPU with its compute NIC. `tokens` and `requests` are assigned and unfinished ones.

    `nic_in` is what the NIC writes into memory, `nic_out` what it reads: everything in or out of
    the GPU passes it, copies from the node's own DRAM included (section 1.2).
    """

    node: Node
    nic_in: Shared
    nic_out: Shared
    tokens: int = 0
    requests: int = 0


@dataclass(slots=True, eq=False)
class Group:
    """Engines that fetch work together, with a queue of their own (decode only)."""

    engines: list[Engine]
    queue_tokens: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One turn of one agent on its way through the cluster.

    `hit_prefill` and `hit_decode` are the tokens read from storage on each side, `left` what is
    still to prefill. Times are in seconds of the loop.
    """

    agent: int
    turn: Turn
    hit: int
    submitted: float
    prefill: Engine | None = None
    decode: Engine | None = None
    hit_prefill: int = 0
    hit_decode: int = 0
    parts: int = 0
    left: int = 0
    done_new: int = 0
    assigned: float = 0.0
    read: float = 0.0
    prefilled: float = 0.0
    finished: float = 0.0

    @property
    def prompt(self) -> int:
        """Tokens of the prompt: hits and what has to be computed."""
        return self.turn.context + self.turn.append

    @property
    def pe(self) -> Engine:
        """The prefill engine, once there is one."""
        assert self.prefill is not None, "no prefill engine was assigned yet"
        return self.prefill

    @property
    def de(self) -> Engine:
        """The decode engine, once there is one."""
        assert self.decode is not None, "no decode engine was assigned yet"
        return self.decode


def make_nodes(loop: Loop, hardware: Hardware, count: int, cache_tokens: int) -> list[Node]:
    """Return `count` idle nodes."""
    return [
        Node(
            storage=link(loop, hardware.storage_nic),
            storage_out=link(loop, hardware.storage_nic),
            dram=link(loop, hardware.dram),
            cache=PrefixCache(cache_tokens),
        )
        for _ in range(count)
    ]


def make_engines(loop: Loop, hardware: Hardware, nodes: list[Node]) -> list[Engine]:
    """Return the engines of nodes, node by node."""
    return [
        Engine(node, nic_in=link(loop, hardware.lane), nic_out=link(loop, hardware.lane))
        for node in nodes
        for _ in range(hardware.gpus)
    ]


def grouped(engines: list[Engine], size: int) -> Iterator[list[Engine]]:
    """Yield runs of `size` engines; the last may be shorter."""
    for start in range(0, len(engines), size):
        yield engines[start : start + size]
