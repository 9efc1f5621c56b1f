"""The systems compared: the steps of the paper's ablation, its bound, and what goes further."""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Side(Enum):
    """On which side a request's KV is read."""

    PREFILL = "prefill"
    IN_TURN = "in turn"
    SHORTER_QUEUE = "shorter queue"
    BOTH_BALANCED = "both, balanced"
    BOTH_ENDS = "both ends"
    NOWHERE = "nowhere"


class Loading(Enum):
    """Whether a step holds the KV of whole requests, or of one layer at a time."""

    WHOLE = "whole"
    LAYERWISE = "layerwise"


class Assigning(Enum):
    """Who assigns engines, and packs prefill steps."""

    ROUND_ROBIN = "round robin"
    PAPER = "paper"


@dataclass(frozen=True, slots=True)
class System:
    """One way to run the cluster."""

    name: str
    side: Side
    loading: Loading
    assigning: Assigning
    about: str


SYSTEMS: Final = {
    system.name: system
    for system in (
        System(
            "basic",
            Side.PREFILL,
            Loading.WHOLE,
            Assigning.ROUND_ROBIN,
            "prefill engines read whole requests",
        ),
        System(
            "layerwise",
            Side.PREFILL,
            Loading.LAYERWISE,
            Assigning.ROUND_ROBIN,
            "and hold one layer at a time",
        ),
        System(
            "two-paths",
            Side.IN_TURN,
            Loading.LAYERWISE,
            Assigning.ROUND_ROBIN,
            "and both sides read, in turn",
        ),
        System(
            "dualpath",
            Side.SHORTER_QUEUE,
            Loading.LAYERWISE,
            Assigning.PAPER,
            "and the paper's scheduler: all of DualPath",
        ),
        System(
            "split",
            Side.BOTH_BALANCED,
            Loading.LAYERWISE,
            Assigning.PAPER,
            "DualPath, each request read on both sides so that they should end together",
        ),
        System(
            "two-ended",
            Side.BOTH_ENDS,
            Loading.LAYERWISE,
            Assigning.PAPER,
            "split, and the side that is done first takes over from the other's end",
        ),
        System(
            "oracle",
            Side.NOWHERE,
            Loading.LAYERWISE,
            Assigning.PAPER,
            "DualPath with I/O that costs nothing",
        ),
    )
}
