"""What a fetch into GPU memory is made of: reads as the loader asks for them, and copies."""

import os
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from xxhash import xxh3_64_intdigest

from tests.gpu import child
from tests.gpu.child import Segment
from tests.gpu.conftest import Call
from tests.gpu.test_gds import FIRST, ODD_BYTES, contents, flip, key_of, keys_of, layout_of, written
from tierd.core.units import PAGE_BYTES, KiB, MiB


def make_version_1(segment: Segment, index: int) -> None:
    """Write the header of a slot as version 1 did."""
    layout = segment.layout
    at = segment.start + index * (PAGE_BYTES + layout.block_bytes)
    with Path(segment.path).open("r+b") as file:
        file.seek(at)
        page = bytearray(file.read(PAGE_BYTES))
        part = file.read(layout.part_bytes)
        page[8:16] = (1).to_bytes(8, "little")
        page[104:] = bytes(PAGE_BYTES - 104)
        page[128:136] = xxh3_64_intdigest(part).to_bytes(8, "little")
        page[16:24] = xxh3_64_intdigest(page[24:]).to_bytes(8, "little")
        file.seek(at)
        file.write(page)
        os.fsync(file.fileno())


@pytest.mark.parametrize("part_bytes", [1, 4096, ODD_BYTES, 300 * KiB, 9 * MiB + 5])
async def test_a_fetchs_blocks_go_each_to_its_place(
    call: Call, tmp_path: Path, part_bytes: int
) -> None:
    layout = layout_of(part_bytes)
    segment = await written(tmp_path, layout)
    outcome = call(child.read_each, segment, keys_of(3), [2, 0, 1])
    first, second, third = contents(layout, 3)
    assert outcome.causes == ["", "", ""]
    assert outcome.parts == [second, third, first]
    assert outcome.are_guards_whole


async def test_no_byte_comes_back_to_be_verified(on_standin: Call, tmp_path: Path) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    assert on_standin(child.read_each, segment, keys_of(3), [0, 1, 2]).copied_bytes == 0


async def test_slots_of_version_1_come_back_to_be_verified(
    on_standin: Call, tmp_path: Path
) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    make_version_1(segment, 1)
    outcome = on_standin(child.read_each, segment, keys_of(3), [0, 1, 2])
    assert outcome.causes == ["", "", ""]
    assert outcome.copied_bytes == ODD_BYTES
    flip(segment, PAGE_BYTES + layout.block_bytes + PAGE_BYTES + 5)
    _, cause, _ = on_standin(child.read_each, segment, keys_of(3), [0, 1, 2]).causes
    assert "part 0 has checksum" in cause


@pytest.mark.parametrize("byte", [0, 4095, 4096, ODD_BYTES - 1])
async def test_the_gpus_sums_find_a_flipped_byte(call: Call, tmp_path: Path, byte: int) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    flip(segment, PAGE_BYTES + layout.block_bytes + PAGE_BYTES + byte)
    before, cause, after = call(child.read_each, segment, keys_of(3), [0, 1, 2]).causes
    assert (before, after) == ("", "")
    assert "part 0 has sum" in cause


async def test_another_block_is_a_fault_and_not_silence(call: Call, tmp_path: Path) -> None:
    """Who takes the one for the other gives up a good copy, or keeps a bad one."""
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    wrong = [key_of(FIRST), key_of(99), key_of(FIRST + 2)]
    causes = call(child.read_each, segment, wrong, [0, 1, 2]).causes
    assert [bool(cause) for cause in causes] == [False, True, False]
    assert causes[1].startswith("block ")


async def test_a_file_cut_short_is_a_fault_and_not_silence(call: Call, tmp_path: Path) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    os.truncate(segment.path, segment.start + PAGE_BYTES + layout.block_bytes + PAGE_BYTES + 10)
    causes = call(child.read_each, segment, keys_of(3), [0, 1, 2]).causes
    assert [bool(cause) for cause in causes] == [False, True, True]
    assert not any(cause.startswith("unanswered") for cause in causes)


async def test_a_gpu_that_does_not_answer_is_no_fault_of_the_block(
    on_standin: Call, tmp_path: Path
) -> None:
    segment = await written(tmp_path, layout_of(ODD_BYTES))
    assert on_standin(child.read_past_the_end, segment, key_of(FIRST))


@pytest.mark.parametrize("gap", [0, 4096])
def test_slots_are_copied_out_of_pinned_memory(call: Call, gap: int) -> None:
    parts = [Random(index).randbytes(8192) for index in range(4)]
    outcome = call(child.copy_to_device, parts, gap)
    assert outcome.parts == parts
    assert outcome.are_guards_whole


def test_a_copy_that_does_not_fit_is_a_fault(on_standin: Call) -> None:
    assert "cuMemcpyAsync failed" in on_standin(child.copy_past_the_end, 100)


def test_buffers_one_a_block(call: Call) -> None:
    assert call(child.buffers_one_a_block, 512, 3) == [0, 512, 1024]


HOST = SimpleNamespace(
    __cuda_array_interface__={"shape": (512,), "typestr": "|u1", "data": (4096, False)}
)


@pytest.mark.parametrize(
    ("given", "said"),
    [(bytearray(512), "give memory of a GPU"), (HOST, "give memory of a GPU"), ([], "give 1")],
)
def test_what_is_no_gpu_memory_is_refused(call: Call, given: object, said: str) -> None:
    assert said in call(child.refusal_of_buffers, given, 512)
