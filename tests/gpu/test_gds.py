"""The direct route into GPU memory brings the sealed bytes of the right block, or says why not."""

import os
from collections.abc import Sequence
from functools import partial
from mmap import mmap
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Final

import pytest

from tests.gpu import child
from tests.gpu.child import Outcome, Segment
from tests.gpu.conftest import Call
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd.core.slots import sum_of
from tierd.core.units import PAGE_BYTES, KiB, MiB
from tierd.tiers.base import SlotWrite, SpaceSpec
from tierd.tiers.disk import DiskTier
from tierd_client.gds import GdsSettings

REGION_SLOTS: Final = 4
FIRST: Final = REGION_SLOTS + 1
"""The first slot that is read: not the first of its region, nor of a first region."""

ODD_BYTES: Final = 7000
SETTINGS: Final = GdsSettings(mode="compat", threads=2)


def layout_of(part_bytes: int, shards: int = 1) -> LayoutSpec:
    group = LayerGroup(layers=1, kv_heads=1, head_size=part_bytes, planes=1)
    return LayoutSpec("gds", (group,), block_tokens=1, dtype="uint8", shards=shards)


def key_of(slot: int) -> BlockKey:
    return BlockKey(slot.to_bytes(16, "big"))


def keys_of(count: int) -> list[BlockKey]:
    return [key_of(FIRST + index) for index in range(count)]


def content(layout: LayoutSpec, slot: int, part: int = 0) -> bytes:
    return Random(f"{slot}.{part}").randbytes(layout.part_bytes)


def contents(layout: LayoutSpec, count: int, part: int = 0) -> list[bytes]:
    return [content(layout, FIRST + index, part) for index in range(count)]


async def written(directory: Path, layout: LayoutSpec, count: int = 3) -> Segment:
    """Have the disk tier write slots `FIRST`, ... and return their segment."""
    tier = DiskTier([directory], 1, sum_of)
    space = tier.space(SpaceSpec(layout, REGION_SLOTS))
    writes = []
    for slot in range(FIRST, FIRST + count):
        source = memoryview(mmap(-1, layout.block_bytes))
        for part in range(layout.shards):
            at = part * layout.part_stride_bytes
            source[at : at + layout.part_bytes] = content(layout, slot, part)
        writes.append(SlotWrite(slot, key_of(slot), layout.root, slot, source))
    await space.write(writes)
    await space.sync()
    region = FIRST // REGION_SLOTS
    segment = Segment(str(space.segment_path(region)), layout, space.slot_offset(FIRST))
    await tier.aclose()
    return segment


def flip(segment: Segment, at: int) -> None:
    with Path(segment.path).open("r+b") as file:
        file.seek(segment.start + at)
        byte = file.read(1)[0]
        file.seek(segment.start + at)
        file.write(bytes([byte ^ 1]))
        os.fsync(file.fileno())


def assert_whole(outcome: Outcome, wanted: Sequence[bytes]) -> None:
    assert outcome.causes == [""] * len(wanted)
    assert outcome.parts == list(wanted)
    assert outcome.are_guards_whole


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("task_bytes", [199, 4096, MiB, 4 * MiB])
async def test_any_split_into_tasks_gives_the_same_bytes(
    call: Call, tmp_path: Path, task_bytes: int, threads: int
) -> None:
    layout = layout_of(MiB + 37)
    segment = await written(tmp_path, layout, count=2)
    settings = GdsSettings(mode="compat", threads=threads, task_bytes=task_bytes)
    assert_whole(call(child.read, segment, keys_of(2), settings), contents(layout, 2))


@pytest.mark.parametrize("part_bytes", [1, 4095, 4096, 4097, ODD_BYTES, 9 * MiB + 5])
async def test_parts_of_any_size(call: Call, tmp_path: Path, part_bytes: int) -> None:
    layout = layout_of(part_bytes)
    segment = await written(tmp_path, layout)
    assert_whole(call(child.read, segment, keys_of(3), SETTINGS), contents(layout, 3))


@pytest.mark.parametrize("bounce_bytes", [4096, 64 * KiB, 16 * MiB])
async def test_bounce_buffers_of_any_size(call: Call, tmp_path: Path, bounce_bytes: int) -> None:
    layout = layout_of(MiB + 4097)
    segment = await written(tmp_path, layout)
    settings = GdsSettings(mode="compat", bounce_bytes=bounce_bytes)
    assert_whole(call(child.read, segment, keys_of(3), settings), contents(layout, 3))


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_each_shard_gets_its_own_part(call: Call, tmp_path: Path, part: int) -> None:
    layout = layout_of(ODD_BYTES, shards=3)
    segment = await written(tmp_path, layout)
    outcome = call(child.read, segment, keys_of(3), SETTINGS, part)
    assert_whole(outcome, contents(layout, 3, part))


async def test_what_the_machine_has_is_found_out(call: Call, tmp_path: Path) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    settings = GdsSettings(mode="auto")
    assert_whole(call(child.read, segment, keys_of(3), settings), contents(layout, 3))
    assert call(child.label, layout, settings) in ("gds", "compat")


def test_the_label_says_that_bytes_go_through_host_memory(call: Call) -> None:
    assert call(child.label, layout_of(ODD_BYTES), SETTINGS) == "compat"


@pytest.mark.parametrize(
    ("task_bytes", "bounce_bytes"), [(4096, MiB), (64 * KiB, MiB), (MiB, 4096)]
)
async def test_every_byte_crosses_a_bounce_buffer_once(
    on_standin: Call, tmp_path: Path, task_bytes: int, bounce_bytes: int
) -> None:
    layout = layout_of(MiB + 37)
    segment = await written(tmp_path, layout)
    settings = GdsSettings(mode="compat", task_bytes=task_bytes, bounce_bytes=bounce_bytes)
    outcome = on_standin(child.read, segment, keys_of(3), settings)
    assert outcome.copied_bytes == 3 * layout.part_bytes
    assert outcome.copies >= 3 * (MiB // min(task_bytes, bounce_bytes) + 1)


async def test_another_blocks_key_is_a_fault_of_that_slot_alone(call: Call, tmp_path: Path) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    keys = [key_of(FIRST), key_of(99), key_of(FIRST + 2)]
    outcome = call(child.read, segment, keys, SETTINGS)
    cause = f"block {key_of(FIRST + 1).hex()} is in the slot, not {key_of(99).hex()}"
    assert outcome.causes == ["", cause, ""]
    assert outcome.parts[0::2] == contents(layout, 3)[0::2]


async def test_another_namespaces_slots_are_refused(call: Call, tmp_path: Path) -> None:
    segment = await written(tmp_path, layout_of(ODD_BYTES))
    other = Segment(segment.path, layout_of(ODD_BYTES + 1), segment.start)
    (cause,) = call(child.read, other, keys_of(1), SETTINGS).causes
    assert cause.startswith("namespace ")


@pytest.mark.parametrize("byte", [0, 4095, 4096, ODD_BYTES - 1])
async def test_a_flipped_payload_byte_is_found(call: Call, tmp_path: Path, byte: int) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    stride = PAGE_BYTES + layout.block_bytes
    flip(segment, stride + PAGE_BYTES + byte)
    before, cause, after = call(child.read, segment, keys_of(3), SETTINGS).causes
    assert (before, after) == ("", "")
    assert "part 0 has checksum" in cause


async def test_a_flipped_header_byte_is_found(call: Call, tmp_path: Path) -> None:
    segment = await written(tmp_path, layout_of(ODD_BYTES))
    flip(segment, 40)
    cause, *others = call(child.read, segment, keys_of(3), SETTINGS).causes
    assert "the slot header has checksum" in cause
    assert others == ["", ""]


@pytest.mark.parametrize("cut", [0, 1, 4095, 4096, 4097, PAGE_BYTES + ODD_BYTES - 1])
async def test_a_truncated_segment_is_a_fault(call: Call, tmp_path: Path, cut: int) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    os.truncate(segment.path, segment.start + PAGE_BYTES + layout.block_bytes + cut)
    outcome = call(child.read, segment, keys_of(3), SETTINGS)
    assert [bool(cause) for cause in outcome.causes] == [False, True, True]
    assert outcome.parts[0] == content(layout, FIRST)
    assert outcome.are_guards_whole


async def test_a_closed_segment_is_a_fault(call: Call, tmp_path: Path) -> None:
    segment = await written(tmp_path, layout_of(ODD_BYTES))
    causes = call(child.read_of_a_closed_segment, segment, keys_of(2))
    assert causes == ["[Errno 9] Bad file descriptor"] * 2


async def test_past_its_deadline_a_read_does_not_begin(call: Call, tmp_path: Path) -> None:
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    outcome = call(child.read_too_late, segment, keys_of(3), SETTINGS)
    assert outcome.causes == ["deadline"] * 3
    assert outcome.parts == [bytes(ODD_BYTES)] * 3


@pytest.mark.parametrize("part_bytes", [ODD_BYTES, MiB + 37])
async def test_a_stalled_device_is_not_waited_for(
    on_standin: Call, tmp_path: Path, part_bytes: int
) -> None:
    """What was under way ends later, and the caller can tell when.

    Of both sizes, because kvikio reads a small part before it returns a future.
    """
    segment = await written(tmp_path, layout_of(part_bytes))
    outcome = on_standin(child.read_stalled, segment, keys_of(3), SETTINGS)
    assert outcome.causes == ["deadline"] * 3
    assert outcome.are_guards_whole


async def test_what_has_not_begun_by_the_deadline_never_does(
    on_standin: Call, tmp_path: Path
) -> None:
    """A small part is read before the next begins, so the device stalls in the first of three."""
    layout = layout_of(ODD_BYTES)
    segment = await written(tmp_path, layout)
    outcome = on_standin(child.read_stalled, segment, keys_of(3), SETTINGS)
    assert outcome.parts == [content(layout, FIRST), bytes(ODD_BYTES), bytes(ODD_BYTES)]


async def test_a_checksum_of_ones_own_decides(call: Call, tmp_path: Path) -> None:
    segment = await written(tmp_path, layout_of(ODD_BYTES))
    assert call(child.read_with_checksum, segment, keys_of(3)) == [ODD_BYTES] * 3


async def test_keeps_few_segments_open(call: Call, tmp_path: Path) -> None:
    layout = layout_of(ODD_BYTES)
    segments = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        segments.append(await written(tmp_path / name, layout, count=1))
    opened = partial(call, child.open_files)
    one = opened(segments[:1], key_of(FIRST), SETTINGS)
    assert one == [one[0], one[0], 0, 0]
    assert one[0] > 0
    settings = GdsSettings(mode="compat", segments_max=2)
    kept = opened(segments, key_of(FIRST), settings)
    assert kept == [2 * one[0], 2 * one[0], one[0], 0]


def test_without_kvikio_the_user_is_told_what_to_install(call: Call) -> None:
    said = call(child.refusal_without_kvikio, layout_of(ODD_BYTES))
    assert "pip install 'tierd[gpu]'" in said


def test_a_driver_that_does_not_start_is_not_given_to_kvikio(
    on_driver_without_device: Call,
) -> None:
    """kvikio would hang: it looks for the failure's name in the driver that it is loading."""
    said = on_driver_without_device(child.refusal_of_driver, layout_of(ODD_BYTES))
    assert "cuInit failed with CUDA error 100" in said


STRIDED: Final = {"shape": (9000,), "typestr": "|u1", "data": (4096, False), "strides": (2,)}
SHORT: Final = {"shape": (3499,), "typestr": "<f2", "data": (4096, False)}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (bytearray(ODD_BYTES), "bytearray: give memory of a GPU"),
        (SimpleNamespace(__cuda_array_interface__=STRIDED), "strided: give contiguous memory"),
        (SimpleNamespace(__cuda_array_interface__=SHORT), "6998 bytes: give at least 7000"),
    ],
)
def test_a_target_that_will_not_do_is_refused(call: Call, target: object, said: str) -> None:
    assert said in call(child.refusal_of_target, layout_of(ODD_BYTES), target)


def test_host_memory_is_not_taken_for_a_gpus(call: Call) -> None:
    assert call(child.fault_of_host_memory)
