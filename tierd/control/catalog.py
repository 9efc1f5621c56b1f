"""What is held: blocks, their copies, and the namespaces they belong to."""

from collections import Counter
from collections.abc import Sequence

from tierd.core.keys import BlockKey
from tierd.core.layouts import LayoutSpec


class Block:
    """A sealed block that has at least one copy.

    `slots[t]` is the slot of its copy in tier t, or None: a tuple, which takes less memory than
    a list.
    """

    __slots__ = ("key", "namespace", "parent", "slots")

    def __init__(self, key: BlockKey, parent: BlockKey, namespace: int, tiers: int) -> None:
        self.key = key
        self.parent = parent
        self.namespace = namespace
        self.slots: tuple[int | None, ...] = (None,) * tiers

    def place(self, tier: int, slot: int | None) -> None:
        """Note where the copy in `tier` is, or that there is none."""
        self.slots = (*self.slots[:tier], slot, *self.slots[tier + 1 :])

    def is_last(self, tier: int) -> bool:
        """Say whether the copy in `tier` is the only one."""
        return all(slot is None for other, slot in enumerate(self.slots) if other != tier)

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
    """Keys to blocks. A block that is still being written is not in it.

    `held[n]` counts the blocks of namespace n, and `copies[t]` the copies in tier t. `names` are
    all names that a namespace was opened by; its own is the first.

    What few blocks have is kept apart, as it would cost memory in all: `readers` counts the leases
    that read a block, so that it loses no copy; `children` those under which blocks that hang on
    it are written, so that it does not lose its last copy; `pins` those that pin it. `hits`
    counts fetches, where somebody wants to know.
    """

    def __init__(self) -> None:
        self.blocks: dict[BlockKey, Block] = {}
        self.readers = Counter[Block]()
        self.hits = Counter[Block]()
        self.children = Counter[Block]()
        self.pins = Counter[Block]()
        self.held = Counter[int]()
        self.copies = Counter[int]()
        self.namespaces: list[Namespace] = []
        self.names: dict[str, Namespace] = {}

    def held_prefix(self, root: BlockKey, keys: Sequence[BlockKey]) -> list[Block]:
        """Return the blocks of the longest prefix of `keys` that is held, root first.

        A prefix ends, too, where `keys` is no chain from `root`.
        """
        held = []
        find = self.blocks.get
        parent = root
        for key in keys:
            block = find(key)
            if block is None or block.parent != parent:
                break
            held.append(block)
            parent = block.key  # Most often the very object that the next one has as its parent.
        return held

    def held_apart(self, root: BlockKey, keys: Sequence[BlockKey]) -> list[Block]:
        """Return the blocks of the leading `keys` that are held, each a chain of its own.

        They end, too, where a key comes for the second time.
        """
        held: dict[BlockKey, Block] = {}
        for key in keys:
            block = self.blocks.get(key)
            if block is None or block.parent != root or key in held:
                break
            held[key] = block
        return list(held.values())

    def namespace_of(self, layout: LayoutSpec) -> Namespace | None:
        return next((space for space in self.namespaces if space.layout == layout), None)

    def add_copy(
        self, namespace: int, key: BlockKey, parent: BlockKey, tier: int, slot: int, tiers: int
    ) -> Block:
        """Note a copy, of a block that is new or known; return the block."""
        block = self.blocks.get(key)
        if block is None:
            # A block and its children share one object of its key: 64 bytes a block.
            above = self.blocks.get(parent)
            parent = above.key if above is not None else parent
            block = self.blocks[key] = Block(key, parent, namespace, tiers)
            self.held[namespace] += 1
        assert block.slots[tier] is None, (tier, block.slots)
        block.place(tier, slot)
        self.copies[tier] += 1
        return block

    def remove_copy(self, block: Block, tier: int) -> int:
        """Forget a copy, and the block with its last one; return the slot it had."""
        slot = block.slots[tier]
        assert slot is not None, tier
        block.place(tier, None)
        self.copies[tier] -= 1
        if not any(other is not None for other in block.slots):
            del self.blocks[block.key]
            self.hits.pop(block, None)
            self.held[block.namespace] -= 1
        return slot


def count_down(counter: Counter[Block], block: Block) -> None:
    """Take one from what `counter` has for a block."""
    count = counter[block]
    assert count > 0, block.key
    if count == 1:
        del counter[block]
    else:
        counter[block] = count - 1
