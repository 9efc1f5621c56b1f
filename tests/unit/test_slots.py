"""Slot and segment headers: their bytes on disk, and what verification finds."""

import mmap
from dataclasses import replace
from random import Random

import pytest
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from tierd.core.keys import BlockKey
from tierd.core.layouts import CHUNK_NUMBERS_MAX, LayerGroup, LayoutSpec, opaque_layout
from tierd.core.slots import (
    SegmentHeader,
    SlotHeader,
    check_chunk,
    check_header,
    check_part,
    check_sums,
    checksum,
    describe,
    described,
    has_chunks,
    other_version,
    pack_segment,
    pack_slot,
    slot_header,
    slot_offset,
    slot_stride_bytes,
    unpack_segment,
    unpack_slot,
    verify,
)
from tierd.core.sums import fold, page_sums

KEY, PARENT = BlockKey(bytes(range(16))), BlockKey(bytes(range(16, 32)))
LAYOUT = LayoutSpec(
    model="m",
    groups=(LayerGroup(layers=2, kv_heads=1, head_size=25),),
    block_tokens=32,
    dtype="uint8",
    shards=3,
)
MANY_CHUNKS = LayoutSpec(
    model="m",
    groups=(
        LayerGroup(layers=3, kind="recurrent", state_bytes=300_001),
        LayerGroup(layers=1, kind="recurrent", state_bytes=99),
    ),
    block_tokens=1,
)


def room(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))


def written(layout: LayoutSpec = LAYOUT) -> tuple[memoryview, memoryview]:
    """Return the header page and the payload of a slot."""
    page, payload = room(4096), room(layout.block_bytes)
    payload[:] = Random(1).randbytes(len(payload))
    pack_slot(slot_header(layout, KEY, PARENT, 7, payload), page)
    return page, payload


def header_of(
    part_bytes: int, chunk_ends: tuple[int, ...], checksums: tuple[tuple[int, ...], ...]
) -> SlotHeader:
    stride = -(-part_bytes // 4096) * 4096
    sums = tuple(range(len(checksums)))
    return SlotHeader(
        bytes([9] * 16), KEY, PARENT, 7, part_bytes, stride, chunk_ends, checksums, sums
    )


def sealed(page: memoryview) -> memoryview:
    """Give `page` the checksum of what is in it now."""
    page[16:24] = xxh3_64_intdigest(page[24:]).to_bytes(8, "little")
    return page


def numbers(page: memoryview, first: int, count: int) -> list[int]:
    words = (page[at : at + 8] for at in range(first, first + 8 * count, 8))
    return [int.from_bytes(word, "little") for word in words]


def version_1(payload: memoryview) -> memoryview:
    """Return the header page that version 1 wrote for a block of `LAYOUT`."""
    page = room(4096)
    page[:16] = b"tierdslt" + (1).to_bytes(8, "little")
    shape = (LAYOUT.shards, LAYOUT.part_bytes, LAYOUT.part_stride_bytes)
    fields = b"".join(number.to_bytes(8, "little") for number in shape)
    page[24:104] = (7).to_bytes(8, "little") + LAYOUT.fingerprint + KEY + PARENT + fields
    for shard in range(LAYOUT.shards):
        part = payload[shard * 4096 :][: LAYOUT.part_bytes]
        page[128 + 8 * shard :][:8] = xxh3_64_intdigest(part).to_bytes(8, "little")
    return sealed(page)


def test_the_bytes_of_a_slot_header_are_these() -> None:
    """A failure here means that files of released versions no longer read: raise the version."""
    header = header_of(5000, (3000, 5000), ((2**64 - 1, 1), (2, 3)))
    page = room(4096)
    pack_slot(header, page)
    assert bytes(page[:24]).hex() == "7469657264736c7402000000000000001d0d1563c1912fc7"
    assert bytes(page[24:48]).hex() == "0700000000000000" + "09" * 16
    assert bytes(page[48:64]) == KEY
    assert bytes(page[64:80]) == PARENT
    assert bytes(page[80:104]).hex() == "020000000000000088130000000000000020000000000000"
    assert numbers(page, 104, 2) == [2, 2]
    assert not any(page[120:128])
    assert numbers(page, 128, 8) == [3000, 5000, 0, 1, 2**64 - 1, 1, 2, 3]
    assert not any(page[192:])
    assert xxh3_64_hexdigest(page) == "ef5d9d59918a1a31"
    assert unpack_slot(page) == header


def test_the_bytes_of_a_slot_header_of_version_1_are_read() -> None:
    page = room(4096)
    shape = b"".join(number.to_bytes(8, "little") for number in (2, 5000, 8192))
    page[:16] = b"tierdslt" + (1).to_bytes(8, "little")
    page[24:104] = (7).to_bytes(8, "little") + bytes([9] * 16) + KEY + PARENT + shape
    page[128:144] = bytes.fromhex("ff" * 8 + "0100000000000000")
    assert xxh3_64_hexdigest(sealed(page)) == "34b24288029fe58e"
    written = header_of(5000, (5000,), ((2**64 - 1,), (1,)))
    assert unpack_slot(page) == replace(written, sums=())


def test_a_slot_of_version_1_verifies() -> None:
    _, payload = written()
    page = version_1(payload)
    assert verify(page, payload, KEY, LAYOUT) is None
    header = check_header(page, KEY, LAYOUT)
    assert isinstance(header, SlotHeader)
    assert header.sums == ()
    payload[4096] ^= 1
    cause = verify(page, payload, KEY, LAYOUT)
    assert cause is not None
    assert cause.startswith("part 1 ")


def test_the_bytes_of_a_segment_header_are_these() -> None:
    header = SegmentHeader(bytes([9] * 16), 3, 31, 12288)
    page = room(4096)
    pack_segment(header, page)
    assert bytes(page[:24]).hex() == "74696572647365670200000000000000a20a069ac371ef50"
    assert bytes(page[24:64]).hex() == (
        "0300000000000000" + "09" * 16 + "1f00000000000000" + "0030000000000000"
    )
    assert not any(page[64:])
    assert xxh3_64_hexdigest(page) == "e8e508c26efc6ba9"
    assert unpack_segment(page) == header
    page[8] = 1  # Version 1 differs in nothing else.
    assert xxh3_64_hexdigest(page) == "7d857aa7612d54c3"
    assert unpack_segment(page) == header


def test_the_description_of_a_segment_is_these_bytes() -> None:
    layout = opaque_layout("m", block_tokens=1, token_bytes=3)
    header = SegmentHeader(layout.fingerprint, 0, 1, 8192, describe("chat", layout))
    page = room(4096)
    pack_segment(header, page)
    text = (
        b'{"name":"chat","layout":{"model":"m","groups":[{"layers":1,"kv_heads":1,"head_size":3,'
        b'"planes":1,"kind":"full","window_tokens":0,"state_bytes":0}],"block_tokens":1,'
        b'"dtype":"uint8","shards":1,"revision":"","weights_digest":"",'
        b'"order":"planes,tokens,heads,head_size","tenant":"","salt":""}}'
    )
    assert int.from_bytes(page[64:72], "little") == len(text)
    assert bytes(page[72 : 72 + len(text)]) == text
    assert not any(page[72 + len(text) :])
    assert xxh3_64_hexdigest(page) == "63af59223153faa9"
    assert unpack_segment(page) == header
    assert described(header) == ("chat", layout)


def test_a_layout_of_many_groups_is_described_in_fewer_bytes() -> None:
    groups = tuple(LayerGroup(layers=1, kv_heads=1, head_size=n) for n in range(1, 81))
    layout = LayoutSpec("m", groups, block_tokens=16)
    header = SegmentHeader(layout.fingerprint, 0, 1, 8192, describe("chat", layout))
    page = room(4096)
    pack_segment(header, page)
    assert unpack_segment(page) == header
    assert described(header) == ("chat", layout)


def test_what_cannot_be_described_is_left_out() -> None:
    layout = replace(LAYOUT, salt=Random(1).randbytes(4000).hex())
    header = SegmentHeader(layout.fingerprint, 0, 1, 8192, describe("chat", layout))
    assert header.description == b""
    assert described(header) is None


def test_the_description_of_another_layout_is_none() -> None:
    header = SegmentHeader(bytes(16), 0, 1, 8192, describe("chat", LAYOUT))
    assert described(header) is None


def test_a_description_longer_than_its_page_is_refused() -> None:
    page = room(4096)
    pack_segment(SegmentHeader(bytes(16), 0, 1, 8192), page)
    page[64:72] = (4025).to_bytes(8, "little")
    assert unpack_segment(sealed(page)) == "the segment header claims a description of 4025 bytes"


def test_the_checksum_of_a_part_is_xxh3_64_with_seed_0() -> None:
    layout = opaque_layout("m", block_tokens=1, token_bytes=3)
    payload = room(layout.block_bytes)
    payload[:3] = b"abc"
    header = slot_header(layout, KEY, PARENT, 0, payload)
    assert header.chunk_checksums == ((0x78AF5F94892F3950,),)
    assert header.sums == (fold(page_sums(memoryview(b"abc"))),)


@pytest.mark.parametrize(("shards", "chunks"), [(1, 247), (8, 54), (64, 6)])
def test_most_shards_and_chunks_fit_a_header(shards: int, chunks: int) -> None:
    checksums = tuple(tuple(range(shard, shard + chunks)) for shard in range(shards))
    header = header_of(chunks, tuple(range(1, chunks + 1)), checksums)
    page = room(4096)
    pack_slot(header, page)
    assert unpack_slot(page) == header


def test_a_layout_has_no_more_chunks_than_a_header_holds() -> None:
    assert CHUNK_NUMBERS_MAX * 8 + 128 == 4096
    for shards in (1, 2, 7, 64):
        group = LayerGroup(layers=300, kv_heads=1, head_size=2**20 // shards, planes=1)
        layout = LayoutSpec("m", (group,), block_tokens=1, dtype="uint8", shards=shards)
        chunks = len(layout.chunks)
        assert chunks + shards + shards * chunks <= CHUNK_NUMBERS_MAX, shards
        header = header_of(
            layout.part_bytes,
            tuple(chunk.end for chunk in layout.chunks),
            ((0,) * chunks,) * shards,
        )
        page = room(4096)
        pack_slot(header, page)
        assert unpack_slot(page) == header


def test_slots_follow_the_segments_header_page() -> None:
    stride = slot_stride_bytes(LAYOUT)
    assert stride == 4096 + 3 * 4096
    assert [slot_offset(slot, 4, LAYOUT) for slot in (0, 1, 3, 4, 9)] == [
        4096,
        4096 + stride,
        4096 + 3 * stride,
        4096,
        4096 + stride,
    ]


def test_a_slot_that_was_left_alone_verifies() -> None:
    page, payload = written()
    assert verify(page, payload, KEY, LAYOUT) is None


def test_every_flipped_bit_of_the_header_is_found() -> None:
    page, payload = written()
    for at in range(4096):
        page[at] ^= 1 << at % 8
        assert verify(page, payload, KEY, LAYOUT) is not None, at
        page[at] ^= 1 << at % 8
    assert verify(page, payload, KEY, LAYOUT) is None


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize("at", [0, 1600, 3199])
def test_a_flipped_byte_of_a_part_is_found(shard: int, at: int) -> None:
    page, payload = written()
    payload[shard * 4096 + at] ^= 1
    cause = verify(page, payload, KEY, LAYOUT)
    assert cause is not None
    assert cause.startswith(f"part {shard} ")


def test_padding_after_a_part_is_nobodys() -> None:
    page, payload = written()
    payload[LAYOUT.part_bytes] ^= 1
    assert verify(page, payload, KEY, LAYOUT) is None


def test_one_part_is_checked_by_itself() -> None:
    page, payload = written()
    header = check_header(page, KEY, LAYOUT)
    assert isinstance(header, SlotHeader)
    part = payload[4096 : 4096 + LAYOUT.part_bytes]
    assert check_part(header, 1, part) is None
    assert check_part(header, 2, part) is not None


def test_another_block_is_not_taken_for_the_one_asked_for() -> None:
    page, payload = written()
    cause = verify(page, payload, PARENT, LAYOUT)
    assert cause == f"block {KEY.hex()} is in the slot, not {PARENT.hex()}"


def test_another_namespace_is_not_taken_for_ours() -> None:
    page, payload = written()
    cause = verify(page, payload, KEY, replace(LAYOUT, tenant="other"))
    assert cause is not None
    assert cause.startswith(f"namespace {LAYOUT.fingerprint.hex()}")


def test_sizes_that_are_not_the_layouts_are_refused() -> None:
    page, payload = written()
    header = check_header(page, KEY, LAYOUT)
    assert isinstance(header, SlotHeader)
    size = header.part_bytes - 1
    pack_slot(replace(header, part_bytes=size, chunk_ends=(size,)), page)
    assert verify(page, payload, KEY, LAYOUT) is not None
    checksums, sums = header.chunk_checksums[:2], header.sums[:2]
    pack_slot(replace(header, chunk_checksums=checksums, sums=sums), page)
    assert verify(page, payload, KEY, LAYOUT) is not None


def test_more_shards_than_a_header_holds_are_refused() -> None:
    page, _ = written()
    page[80] = 65
    assert unpack_slot(sealed(page)) == "the slot header claims 65 shards"


def test_more_chunks_than_a_header_holds_are_refused() -> None:
    page, _ = written()
    page[104:112] = (200).to_bytes(8, "little")
    assert unpack_slot(sealed(page)) == "the slot header claims 200 chunks and 3 sums of 3 shards"


@pytest.mark.parametrize("ends", [(5, 3199), (5, 3201), (5, 5, 3200), (6, 5, 3200), (0, 3200)])
def test_chunks_that_do_not_make_up_a_part_are_refused(ends: tuple[int, ...]) -> None:
    page = room(4096)
    pack_slot(header_of(3200, ends, ((0,) * len(ends),)), page)
    assert unpack_slot(page) == f"the slot header claims chunks that end at {ends}"


def test_one_chunk_is_checked_by_itself() -> None:
    page, payload = written(MANY_CHUNKS)
    header = check_header(page, KEY, MANY_CHUNKS)
    assert isinstance(header, SlotHeader)
    assert has_chunks(header, MANY_CHUNKS)
    chunks = [payload[chunk.offset : chunk.end] for chunk in MANY_CHUNKS.chunks]
    assert [len(chunk) for chunk in chunks] == [300_001, 300_001, 300_100]
    assert [check_chunk(header, 0, index, chunk) for index, chunk in enumerate(chunks)] == [
        None
    ] * 3
    assert check_chunk(header, 0, 0, chunks[1]) is not None
    payload[300_001] ^= 1
    assert check_chunk(header, 0, 0, chunks[0]) is None
    assert check_chunk(header, 0, 1, chunks[1]) is not None
    assert check_part(header, 0, payload[: MANY_CHUNKS.part_bytes]) is not None


def test_chunks_cut_otherwise_verify_as_a_whole() -> None:
    page, payload = written(MANY_CHUNKS)
    header = check_header(page, KEY, MANY_CHUNKS)
    assert isinstance(header, SlotHeader)
    part = payload[: MANY_CHUNKS.part_bytes]
    whole = replace(header, chunk_ends=(len(part),), chunk_checksums=((checksum(part),),))
    pack_slot(whole, page)
    assert verify(page, payload, KEY, MANY_CHUNKS) is None
    assert not has_chunks(whole, MANY_CHUNKS)


def test_sums_are_checked_against_those_of_their_part() -> None:
    page, payload = written()
    header = check_header(page, KEY, LAYOUT)
    assert isinstance(header, SlotHeader)
    part = payload[4096 : 4096 + LAYOUT.part_bytes]
    assert check_sums(header, 1, page_sums(part)) is None
    assert check_sums(header, 2, page_sums(part)) is not None
    part[-1] ^= 128
    assert check_sums(header, 1, page_sums(part)) is not None


def test_an_empty_page_and_a_short_one_are_no_header() -> None:
    assert unpack_slot(room(4096)) == "there is no slot header"
    assert unpack_segment(room(4096)) == "there is no segment header"
    assert unpack_segment(memoryview(b"")) == "the segment header has 0 of 4096 bytes"


def test_slot_and_segment_headers_are_not_mistaken_for_one_another() -> None:
    page, _ = written()
    assert unpack_segment(page) == "there is no segment header"
    assert other_version(page) is None


def test_another_version_is_told_from_damage() -> None:
    page = room(4096)
    pack_segment(SegmentHeader(bytes(16), 0, 1, 8192), page)
    assert other_version(page) is None
    page[8] = 1
    assert other_version(page) is None
    assert isinstance(unpack_segment(page), SegmentHeader)
    page[8] = 3
    assert other_version(page) == 3
    assert unpack_segment(page) == "the segment header is of format version 3, not 2"
    assert other_version(page[:10]) is None
