"""What the calls of a namespace return."""

from dataclasses import dataclass, field

from tierd_client.loader import RouteUse


@dataclass(frozen=True, slots=True)
class Matched:
    """Blocks held from the root on, and of these how many are best read from each tier.

    Of keys that are `Apart`, `further` are the positions of those that are held behind the first
    that is not.
    """

    blocks: int
    by_tier: dict[str, int]
    further: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought. A shorter prefix is an ordinary answer.

    `blocks` are in the caller's memory, from the first that was wanted on. `by_tier` says where
    they were found and `routes` how they came; a route may have brought more than counts. `cut`
    says why the prefix is shorter than what was held: "", "deadline", "lease expired", "read
    failed", "overloaded", or "daemon away". `why` says how the routes from disk were chosen.
    """

    blocks: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    routes: dict[str, RouteUse] = field(default_factory=dict)
    seconds: float = 0.0
    cut: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """What came of a publish: blocks that are visible now, that others hold or are writing, and
    that had no slot. `durable` blocks of the chain, from its root on, are on disk, if the caller
    waited for that."""

    blocks: int = 0
    held: int = 0
    declined: int = 0
    durable: int = 0
