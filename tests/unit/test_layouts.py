"""A layout says how large blocks are, and who may share them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tierd.core.errors import InvalidRequest
from tierd.core.layouts import CHUNK_NUMBERS_MAX, LayerGroup, LayoutSpec, opaque_layout
from tierd.core.units import GiB, KiB, MiB

LLAMA_3_8B = LayoutSpec("Llama-3-8B", (LayerGroup(32, 8, 128),), block_tokens=16)


def test_llama_3_8b_has_128_kib_a_token() -> None:
    assert LLAMA_3_8B.part_bytes == 16 * 128 * KiB
    assert LLAMA_3_8B.block_bytes == LLAMA_3_8B.part_stride_bytes == 2 * MiB


def test_shards_divide_the_heads_and_not_the_block() -> None:
    sharded = replace(LLAMA_3_8B, groups=(LayerGroup(32, 2, 128),), shards=4)
    assert sharded.part_bytes == 512 * KiB
    assert sharded.block_bytes == LLAMA_3_8B.block_bytes


@pytest.mark.parametrize(
    ("group", "dtype", "token_bytes"),
    [
        (LayerGroup(61, 1, 576, planes=1), "bfloat16", 61 * 576 * 2),
        (LayerGroup(80, 8, 128), "float8_e4m3fn", 80 * 2 * 8 * 128),
        (LayerGroup(24, 4, 64, kind="sliding", window_tokens=128), "float32", 24 * 2 * 4 * 64 * 4),
    ],
    ids=["mla", "float8", "sliding"],
)
def test_bytes_of_a_token(group: LayerGroup, dtype: str, token_bytes: int) -> None:
    layout = LayoutSpec("m", (group,), block_tokens=64, dtype=dtype)
    assert layout.part_bytes == 64 * token_bytes


def test_a_recurrent_state_does_not_grow_with_the_block() -> None:
    groups = (LayerGroup(2, 8, 128), LayerGroup(6, kind="recurrent", state_bytes=1000))
    small, large = (LayoutSpec("m", groups, block_tokens=tokens) for tokens in (16, 32))
    attention = 2 * 2 * 16 * 8 * 128 * 2
    assert small.part_bytes == attention + 6000
    assert large.part_bytes == 2 * attention + 6000


def test_parts_start_at_whole_pages() -> None:
    layout = replace(opaque_layout("bytes", 3, 5), shards=2)
    assert (layout.part_bytes, layout.part_stride_bytes, layout.block_bytes) == (15, 4096, 8192)


def spans(layout: LayoutSpec) -> list[tuple[int, int, int]]:
    return [(chunk.first_layer, chunk.layers, chunk.bytes) for chunk in layout.chunks]


def test_layers_are_joined_to_chunks_of_256_kib_and_more() -> None:
    assert spans(LLAMA_3_8B) == [(layer, 4, 256 * KiB) for layer in range(0, 32, 4)]
    assert [chunk.offset for chunk in LLAMA_3_8B.chunks] == [n * 256 * KiB for n in range(8)]
    large = replace(LLAMA_3_8B, block_tokens=256)
    assert spans(large) == [(layer, 1, MiB) for layer in range(32)]


def test_layers_left_over_go_to_the_last_chunk() -> None:
    nine = replace(LLAMA_3_8B, groups=(LayerGroup(9, 8, 128),))
    assert spans(nine) == [(0, 4, 256 * KiB), (4, 5, 320 * KiB)]


def test_chunks_go_on_from_group_to_group() -> None:
    groups = (LayerGroup(3, 8, 128), LayerGroup(2, kind="recurrent", state_bytes=100_000))
    layout = replace(LLAMA_3_8B, groups=(*groups, LayerGroup(4, 8, 128)))
    assert spans(layout) == [(0, 4, 192 * KiB + 100_000), (4, 5, 100_000 + 256 * KiB)]


def test_a_small_part_is_one_chunk() -> None:
    assert spans(opaque_layout("bytes", 3, 5)) == [(0, 1, 15)]
    assert spans(replace(LLAMA_3_8B, groups=(LayerGroup(3, 8, 128),))) == [(0, 3, 192 * KiB)]


def test_many_shards_have_coarser_chunks() -> None:
    sharded = replace(LLAMA_3_8B, groups=(LayerGroup(80, 1, 128),), block_tokens=256, shards=64)
    assert len(sharded.chunks) <= 6
    assert len(replace(sharded, shards=1).chunks) == 40


def test_whole_pages_cover_a_chunk() -> None:
    group = LayerGroup(2, kind="recurrent", state_bytes=300_000)
    first, second = replace(LLAMA_3_8B, groups=(group,)).chunks
    assert (first.page_offset, first.page_bytes) == (0, 74 * 4096)
    assert (second.page_offset, second.page_bytes) == (73 * 4096, 74 * 4096)


@given(
    groups=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 10**6)), min_size=1, max_size=4),
    shards=st.sampled_from([1, 2, 7, 64]),
)
def test_chunks_make_up_a_part(groups: list[tuple[int, int]], shards: int) -> None:
    kinds = tuple(LayerGroup(n, kind="recurrent", state_bytes=size) for n, size in groups)
    assume(sum(n * size for n, size in groups) < GiB // 64 - 4096)
    layout = LayoutSpec("m", kinds, block_tokens=1, shards=shards)
    layers = [size for n, size in groups for _ in range(n)]
    layer = offset = 0
    for chunk in layout.chunks:
        assert (chunk.first_layer, chunk.offset) == (layer, offset)
        layer += chunk.layers
        offset = chunk.end
        assert chunk.bytes == sum(layers[chunk.first_layer : layer])
        assert chunk.bytes >= min(256 * KiB, layout.part_bytes)
        assert chunk.page_offset + chunk.page_bytes <= layout.part_stride_bytes
    assert (layer, offset) == (len(layers), layout.part_bytes)
    assert len(layout.chunks) * (shards + 1) + shards <= CHUNK_NUMBERS_MAX


OTHER_FIELDS: dict[str, Any] = {
    "model": "Llama-3-8B-Instruct",
    "groups": (LayerGroup(32, 8, 128, kind="sliding", window_tokens=4096),),
    "block_tokens": 32,
    "dtype": "float16",
    "shards": 2,
    "revision": "main",
    "weights_digest": "sha256:0",
    "order": "planes,heads,tokens,head_size",
    "tenant": "blue",
    "salt": "pepper",
}


def test_other_fields_are_all_fields() -> None:
    assert set(OTHER_FIELDS) == set(LLAMA_3_8B.given())


@pytest.mark.parametrize("field", OTHER_FIELDS)
def test_every_field_changes_the_fingerprint(field: str) -> None:
    other = replace(LLAMA_3_8B, **{field: OTHER_FIELDS[field]})
    assert other.fingerprint != LLAMA_3_8B.fingerprint
    [difference] = LLAMA_3_8B.differences(other)
    assert difference.startswith(f"{field}: {getattr(LLAMA_3_8B, field)!r}, not ")


@pytest.mark.parametrize(
    "changed",
    [{"layers": 31}, {"kv_heads": 4}, {"head_size": 64}, {"planes": 1}, {"window_tokens": 1}],
)
def test_every_field_of_a_group_changes_the_fingerprint(changed: dict[str, Any]) -> None:
    other = replace(LLAMA_3_8B, groups=(replace(LLAMA_3_8B.groups[0], **changed),))
    assert other.fingerprint != LLAMA_3_8B.fingerprint


def test_equal_layouts_share() -> None:
    twin = LayoutSpec("Llama-3-8B", (LayerGroup(32, 8, 128),), block_tokens=16)
    assert twin.fingerprint == LLAMA_3_8B.fingerprint == LLAMA_3_8B.root
    assert twin.differences(LLAMA_3_8B) == ()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"model": ""}, "layout.model"),
        ({"dtype": "float3"}, "layout.dtype"),
        ({"block_tokens": 0}, "layout.block_tokens"),
        ({"shards": 0}, "layout.shards"),
        ({"shards": 65}, "layout.shards"),
        ({"groups": ()}, "layout.groups"),
        ({"groups": (LayerGroup(0, 8, 128),)}, "layout.groups"),
        ({"groups": (LayerGroup(32, 8, 0),)}, "layout.groups"),
        ({"groups": (LayerGroup(2**16, 1, 1), LayerGroup(1, 1, 1))}, "layout.groups"),
        ({"groups": (LayerGroup(4, kind="recurrent"),)}, "layout.groups"),
        ({"block_tokens": GiB}, "layout.block_bytes"),
    ],
)
def test_what_no_layout_can_have_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        replace(LLAMA_3_8B, **changed)
    assert caught.value.field == field
