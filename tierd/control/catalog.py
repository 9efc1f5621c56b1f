"""What is held: blocks, their copies, and the namespaces they belong to."""

from collections.abc import Sequence

from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec


class Block:
    """A sealed block that has at least one copy.

    `slots[t]` is the slot of its copy in tier t, or None. `leases` counts the leases that hold
    it; a leased block loses no copy. `hits` counts fetches.
    """

    __slots__ = ("hits", "key", "leases", "namespace", "parent", "slots")

    def __init__(self, key: BlockKey, parent: BlockKey, namespace: int, tiers: int) -> None:
        self.key = key
        self.parent = parent
        self.namespace = namespace
        self.slots: list[int | None] = [None] * tiers
        self.leases = 0
        self.hits = 0

    def coldest(self) -> int:
        """Return the coldest tier with a copy."""
        return max(tier for tier, slot in enumerate(self.slots) if slot is not None)

    def hottest(self) -> int:
        """Return the hottest tier with a copy."""
        return min(tier for tier, slot in enumerate(self.slots) if slot is not None)


class Namespace:
    """A layout that was opened by name, and its number."""

    __slots__ = ("layout", "name", "number")

    def __init__(self, number: int, name: str, layout: LayoutSpec) -> None:
        self.number = number
        self.name = name
        self.layout = layout


class Catalog:
    """Keys to blocks. A block that is still being written is not in it."""

    def __init__(self) -> None:
        self.blocks: dict[BlockKey, Block] = {}
        self.namespaces: list[Namespace] = []

    def held_prefix(self, keys: Sequence[BlockKey]) -> list[Block]:
        """Return the blocks of the longest prefix of `keys` that is held, root first."""
        held = []
        find = self.blocks.get
        for key in keys:
            block = find(key)
            if block is None:
                break
            held.append(block)
        return held

    def namespace_named(self, name: str) -> Namespace | None:
        return next((space for space in self.namespaces if space.name == name), None)

    def add_copy(
        self, namespace: int, key: BlockKey, parent: BlockKey, tier: int, slot: int, tiers: int
    ) -> Block:
        """Note a copy, of a block that is new or known; return the block."""
        block = self.blocks.get(key)
        if block is None:
            block = self.blocks[key] = Block(key, parent, namespace, tiers)
        assert block.slots[tier] is None, (tier, block.slots)
        block.slots[tier] = slot
        return block

    def remove_copy(self, block: Block, tier: int) -> int:
        """Forget a copy, and the block with its last one; return the slot it had."""
        slot = block.slots[tier]
        assert slot is not None, tier
        block.slots[tier] = None
        if not any(other is not None for other in block.slots):
            del self.blocks[block.key]
        return slot
