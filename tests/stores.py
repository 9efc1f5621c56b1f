"""Small stores: a few slots a tier, and times that are small whole numbers."""

from tierd.control.config import Limits, StoreConfig, TierConfig
from tierd.control.policies import Policies
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.units import PAGE_BYTES
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.promotion import PromoteOnHit

READ_LEASE_NS = 20
WRITE_LEASE_NS = 30

SIMPLE = Policies(ChainLRU, AlwaysAdmit, PromoteOnHit(hits_min=2))


def tier(name: str, slots: int, region_slots: int = 4) -> TierConfig:
    """Return a tier of so many slots of one page. Only `disk` is not mapped."""
    return TierConfig(name, slots * PAGE_BYTES, region_slots * PAGE_BYTES, mapped=name != "disk")


def store_config(
    *tiers: TierConfig, limits: Limits | None = None, policies: Policies = SIMPLE
) -> StoreConfig:
    """Return a configuration whose entry tier is `host`."""
    entry = [tier.name for tier in tiers].index("host")
    limits = limits or Limits(write_batch_bytes=2 * PAGE_BYTES)
    return StoreConfig(tiers, entry, policies, limits, READ_LEASE_NS, WRITE_LEASE_NS)


def page_layout(model: str, shards: int = 1, block_tokens: int = 4) -> LayoutSpec:
    """Return a layout with blocks of one page a shard."""
    group = LayerGroup(layers=1, kv_heads=1, head_size=8)
    return LayoutSpec(model, (group,), block_tokens=block_tokens, shards=shards)


def spelled(text: str) -> list[BlockKey]:
    """Return the chain to `text`: a key is spelled as its path from the root."""
    return [BlockKey(text[:depth].encode()) for depth in range(1, len(text) + 1)]
