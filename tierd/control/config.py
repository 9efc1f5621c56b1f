"""What the store is told once, at its start."""

from dataclasses import dataclass

from tierd.control.policies import Policies
from tierd.core.units import NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True)
class TierConfig:
    """One tier. Tiers are given hottest first; those without bytes are left out.

    `header_bytes`: what the medium needs for each slot and each region besides the blocks; it
    counts towards the cap. `mapped`: clients can read its slots in place; those up to the entry
    tier are. Others are read through the entry tier, or by the client from the medium.
    `write_bytes_per_day`: what may be written to it for no stronger reason than that it might be
    read again; 0 is no limit. `stripes`: over so many devices the medium deals regions, in order.
    """

    name: str
    bytes_max: int
    region_bytes: int
    mapped: bool
    header_bytes: int = 0
    write_bytes_per_day: int = 0
    stripes: int = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The maximum of every table and queue, and what happens at it.

    A session, lease or waiting fetch too many is answered with `Overloaded`; a name too many, for
    a namespace that has one, is forgotten; a publish gets at most `slots_per_publish_max` slots at
    once; pins beyond `pinned_ratio_max` of the entry tier are cut short, and those for longer than
    `pin_ns_max` end then; of pauses of which it is known how long they are those that end last are
    forgotten beyond `expected_blocks_max` blocks; `write_batches_max` batches of
    `write_batch_bytes` are under way to a colder tier, and the rest waits in its slots. A block
    whose write fails is tried `writes_tried_max` times in all, the first time again after
    `write_retry_ns`, then after twice as long each time.
    """

    sessions_max: int = 256
    leases_per_session_max: int = 1024
    waiting_max: int = 4096
    namespaces_max: int = 256
    names_max: int = 1024
    slots_per_publish_max: int = 65536
    pinned_ratio_max: float = 0.5
    pin_ns_max: int = 24 * 3600 * NS_PER_S
    expected_blocks_max: int = 1 << 20
    write_batches_max: int = 3  # two are written while one is synced and recorded
    write_batch_bytes: int = 32 << 20
    writes_tried_max: int = 5
    write_retry_ns: int = 250 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """`entry` is the index of the tier that publishes go to and that all moves touch."""

    tiers: tuple[TierConfig, ...]
    entry: int
    policies: Policies
    limits: Limits
    read_lease_ns: int
    write_lease_ns: int
    used_ratio_high: float = 0.95
    used_ratio_low: float = 0.90
