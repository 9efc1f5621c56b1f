"""What the bytes of a block are: the layout, its fingerprint, and the sizes that follow.

Two processes share blocks only if their fingerprints are equal, so everything that changes the
meaning of the bytes is a field here. Inside a part the bytes are layer-major: group by group,
layer by layer, so that a loader can deliver the first layers before the rest has come.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from typing import Any, Final, Literal, Self

from tierd.core.errors import InvalidRequest
from tierd.core.keys import KEY_BYTES, BlockKey
from tierd.core.units import PAGE_BYTES, GiB, KiB, round_up

GroupKind = Literal["full", "sliding", "recurrent"]

ITEM_BYTES: Final = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "uint8": 1,
}

SHARDS_MAX: Final = 64
LAYERS_MAX: Final = 1 << 16
BLOCK_BYTES_MAX: Final = GiB
TEXT_MAX: Final = 8192

CHUNK_BYTES_MIN: Final = 256 * KiB
CHUNK_NUMBERS_MAX: Final = (PAGE_BYTES - 128) // 8
"""What the header page of a slot has room for: see `Chunk`."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers of one kind.

    Units: `kv_heads` of one shard; `planes` is 2 for keys and values, 1 where one tensor holds
    both (MLA); `window_tokens` of a sliding group; `state_bytes` of one layer's state at the
    end of a block, for a recurrent group, which uses nothing else.
    """

    layers: int
    kv_heads: int = 0
    head_size: int = 0
    planes: int = 2
    kind: GroupKind = "full"
    window_tokens: int = 0
    state_bytes: int = 0

    def layer_bytes(self, block_tokens: int, item_bytes: int) -> int:
        """Return the bytes of one layer of one part of a block."""
        if self.kind == "recurrent":
            return self.state_bytes
        return self.planes * block_tokens * self.kv_heads * self.head_size * item_bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring layers of a part that are read and verified together.

    Units: `offset` in bytes from the start of the part. Neither it nor `bytes` need be whole
    pages, so who reads whole pages reads those from `page_offset` on.
    """

    first_layer: int
    layers: int
    offset: int
    bytes: int

    @property
    def end(self) -> int:
        """Return where the next chunk starts in the part."""
        return self.offset + self.bytes

    @property
    def page_offset(self) -> int:
        """Return where the first page starts that has bytes of this chunk."""
        return self.offset // PAGE_BYTES * PAGE_BYTES

    @property
    def page_bytes(self) -> int:
        """Return the bytes of all pages that have bytes of this chunk."""
        return round_up(self.end, PAGE_BYTES) - self.page_offset


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """Everything that two processes must agree on to exchange blocks.

    `model` and `revision` name the weights, `weights_digest` proves them where it is known.
    `tenant` and `salt` keep apart what must not be shared. `order` says how a layer's bytes are
    arranged; tierd does not interpret it. `shards` is the tensor-parallel size: a block has
    one part for each.

    Raises:
        InvalidRequest: a field has a value that no layout can have.
    """

    model: str
    groups: tuple[LayerGroup, ...]
    block_tokens: int
    dtype: str = "bfloat16"
    shards: int = 1
    revision: str = ""
    weights_digest: str = ""
    order: str = "planes,tokens,heads,head_size"
    tenant: str = ""
    salt: str = ""

    part_bytes: int = field(init=False, repr=False, compare=False)
    """Bytes of one shard's part of a block, as the engine has them."""
    part_stride_bytes: int = field(init=False, repr=False, compare=False)
    """Distance between two parts in a slot: `part_bytes` up to a whole page."""
    block_bytes: int = field(init=False, repr=False, compare=False)
    """Bytes of a slot that holds the block, all parts one after another."""
    fingerprint: bytes = field(init=False, repr=False, compare=False)
    """The 16 bytes that two processes compare instead of the fields."""
    chunks: tuple[Chunk, ...] = field(init=False, repr=False, compare=False)
    """A part's layers in the order of its bytes, joined until they are worth a read each."""

    def __post_init__(self) -> None:
        _require(bool(self.model), "model", self.model, "name the model")
        for name in ("model", "revision", "weights_digest", "order", "tenant", "salt"):
            text = getattr(self, name)
            fits = len(text) <= TEXT_MAX
            _require(fits, name, f"{len(text)} characters", f"at most {TEXT_MAX}")
        _require(self.dtype in ITEM_BYTES, "dtype", self.dtype, f"one of {', '.join(ITEM_BYTES)}")
        _require(self.block_tokens > 0, "block_tokens", self.block_tokens, "at least 1")
        _require(0 < self.shards <= SHARDS_MAX, "shards", self.shards, f"1 to {SHARDS_MAX}")
        _require(bool(self.groups), "groups", self.groups, "give at least one layer group")
        for group in self.groups:
            size = group.layer_bytes(self.block_tokens, ITEM_BYTES[self.dtype])
            _require(group.layers > 0 and size > 0, "groups", group, "every layer needs bytes")
        layers = sum(group.layers for group in self.groups)
        _require(layers <= LAYERS_MAX, "groups", f"{layers} layers", f"at most {LAYERS_MAX}")
        self._derive()
        _require(
            self.block_bytes <= BLOCK_BYTES_MAX,
            "block_bytes",
            self.block_bytes,
            f"at most {BLOCK_BYTES_MAX}; use fewer block_tokens",
        )

    def _derive(self) -> None:
        """Work out, once, what is asked of a layout at every request."""
        item_bytes = ITEM_BYTES[self.dtype]
        sizes = [
            group.layer_bytes(self.block_tokens, item_bytes)
            for group in self.groups
            for _ in range(group.layers)
        ]
        part_bytes = sum(sizes)
        stride = round_up(part_bytes, PAGE_BYTES)
        text = json.dumps(self.given(), sort_keys=True, separators=(",", ":")).encode()
        digest = blake2b(text, digest_size=KEY_BYTES, person=b"tierd layout").digest()
        object.__setattr__(self, "part_bytes", part_bytes)
        object.__setattr__(self, "part_stride_bytes", stride)
        object.__setattr__(self, "block_bytes", stride * self.shards)
        object.__setattr__(self, "fingerprint", digest)
        object.__setattr__(self, "chunks", _chunks(sizes, self.shards))

    def given(self) -> dict[str, Any]:
        """Return the fields that make the layout, as plain values: `LayoutSpec.of` reads them."""
        given = {name: getattr(self, name) for name in _given(self)}
        given["groups"] = [asdict(group) for group in self.groups]
        return given

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """Return the layout whose `given` this is."""
        groups = tuple(LayerGroup(**group) for group in given["groups"])
        return cls(**{**given, "groups": groups})

    @property
    def root(self) -> BlockKey:
        """The key of the empty prefix."""
        return BlockKey(self.fingerprint)

    def differences(self, other: "LayoutSpec") -> tuple[str, ...]:
        """Return `field: ours, not theirs` for every field in which the layouts differ."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in _given(self))
        return tuple(
            f"{name}: {ours!r}, not {theirs!r}" for name, ours, theirs in pairs if ours != theirs
        )


def _chunks(layer_bytes: Sequence[int], shards: int) -> tuple[Chunk, ...]:
    """Join layers from the first on; what is left at the end goes to the last chunk.

    Each shard has a number for every chunk and one more in a slot's header, and the chunks' ends
    are there once: so many chunks fit, and each then has at least its share of the bytes.
    """
    chunks_max = (CHUNK_NUMBERS_MAX - shards) // (shards + 1)
    wanted = max(CHUNK_BYTES_MIN, -(-sum(layer_bytes) // chunks_max))
    chunks: list[Chunk] = []
    first = offset = size = 0
    for layer, layer_size in enumerate(layer_bytes):
        size += layer_size
        if size >= wanted:
            chunks.append(Chunk(first, layer + 1 - first, offset, size))
            first, offset, size = layer + 1, offset + size, 0
    if size:
        joined = chunks.pop() if chunks else Chunk(0, 0, 0, 0)
        layers = len(layer_bytes) - joined.first_layer
        chunks.append(Chunk(joined.first_layer, layers, joined.offset, joined.bytes + size))
    return tuple(chunks)


def _given(layout: LayoutSpec) -> list[str]:
    """Return the names of the fields that make the layout, without those derived from them."""
    return [each.name for each in fields(layout) if each.init]


def opaque_layout(name: str, block_tokens: int, token_bytes: int, salt: str = "") -> LayoutSpec:
    """Return a layout of plain bytes, for callers that do not care what is in a block."""
    group = LayerGroup(layers=1, kv_heads=1, head_size=token_bytes, planes=1)
    return LayoutSpec(
        model=name, groups=(group,), block_tokens=block_tokens, dtype="uint8", salt=salt
    )


def _require(holds: bool, field: str, value: object, remedy: str) -> None:  # noqa: FBT001
    if not holds:
        raise InvalidRequest(f"layout.{field}", repr(value), remedy)
