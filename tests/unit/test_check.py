"""Checking, repairing and rebuilding directories that were damaged in known ways."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tierd.cli.main import app
from tierd.core.keys import BlockKey, chain_keys
from tierd.core.layouts import LayoutSpec, opaque_layout
from tierd.core.slots import (
    SegmentHeader,
    other_version,
    pack_segment,
    slot_offset,
    unpack_segment,
)
from tierd.core.units import MiB
from tierd.index.directories import identified
from tierd.index.lmdb_index import Index, IndexChange, IndexRecord, NamespaceRecord
from tierd.index.lock import DirectoryLock
from tierd.tiers.base import SlotWrite, SpaceSpec
from tierd.tiers.disk import DiskTier

LAYOUT = opaque_layout("checked", block_tokens=4, token_bytes=1500)
SLOTS = 4
KEYS = chain_keys(LAYOUT.root, list(range(40)), 4)
"""Ten blocks: two regions and a half."""


def write_for(
    slot: int, key: BlockKey, parent: BlockKey, sequence: int, layout: LayoutSpec
) -> SlotWrite:
    source = memoryview(mmap(-1, layout.block_bytes))
    source[:] = (key * (layout.block_bytes // 16 + 1))[: layout.block_bytes]
    return SlotWrite(slot, key, parent, sequence, source)


async def store(
    directories: list[Path], writes: list[SlotWrite], layout: LayoutSpec = LAYOUT
) -> None:
    """Write blocks as a daemon does, without records."""
    tier = DiskTier(directories, threads=1)
    space = tier.space(SpaceSpec(layout, SLOTS, "chat"))
    await space.write(writes)
    await space.sync()
    await tier.aclose()


def record(directory: Path, writes: list[SlotWrite], layout: LayoutSpec = LAYOUT) -> None:
    index = Index(directory / "index", MiB)
    index.add_namespace(NamespaceRecord("chat", layout, SLOTS))
    added = [IndexRecord(w.key, w.parent, w.slot, w.sequence) for w in writes]
    index.commit([IndexChange(layout.fingerprint, added)])
    index.close()


def ten_blocks() -> list[SlotWrite]:
    parents = [LAYOUT.root, *KEYS]
    return [write_for(slot, key, parents[slot], slot + 1, LAYOUT) for slot, key in enumerate(KEYS)]


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A directory with ten blocks, all of them right."""
    place = tmp_path / "disk"
    writes = ten_blocks()
    await store([place], writes)
    record(place, writes)
    return place


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def findings(*arguments: object, code: int) -> dict[str, Any]:
    """Return what `tierd check --json` says, and look at its exit code."""
    result = run("--json", *arguments)
    assert result.exit_code == code, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    assert said["clean"] == (code == 0)
    if code:
        assert result.stderr.splitlines()[-1].startswith("next: ")
    return said


def problems(said: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(problem["kind"], problem["slot"]) for problem in said["problems"]]


def records(directory: Path) -> dict[BlockKey, int]:
    index = Index(directory / "index", MiB)
    assert [each.name for each in index.namespaces()] == ["chat"]
    assert index.namespaces()[0].layout == LAYOUT
    assert index.namespaces()[0].region_slots == SLOTS
    found = {each.key: each.slot for each in index.load(LAYOUT.fingerprint)}
    index.close()
    return found


def segment(directory: Path, region: int) -> Path:
    return directory / f"{LAYOUT.fingerprint.hex()}-{region:06d}.segment"


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def flip_slot(directory: Path, slot: int, at: int) -> None:
    flip(segment(directory, slot // SLOTS), slot_offset(slot, SLOTS, LAYOUT) + at)


def test_a_directory_that_was_left_alone_is_clean(directory: Path) -> None:
    said = findings(directory, code=0)
    assert said["problems"] == []
    [namespace] = said["namespaces"]
    assert (namespace["name"], namespace["records"], namespace["good"]) == ("chat", 10, 10)
    assert (namespace["unrecorded"], namespace["damaged"], namespace["segments"]) == (0, 0, 3)
    printed = run(directory)
    assert "no problems" in printed.stdout
    assert "chat" in printed.stdout


def test_an_empty_directory_is_clean(tmp_path: Path) -> None:
    findings(tmp_path, code=0)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("at", [30, 200, 4096, 4096 + 5999], ids=str)
def test_a_flipped_byte_costs_its_block(directory: Path, at: int) -> None:
    flip_slot(directory, 5, at)
    before = {path: path.read_bytes() for path in directory.glob("*.segment")}
    assert problems(findings(directory, code=1)) == [("record", 5)]
    assert all(path.read_bytes() == held for path, held in before.items())
    assert len(records(directory)) == 10, "a check changes nothing"
    assert problems(findings("--repair", directory, code=0)) == [("record", 5)]
    assert KEYS[5] not in records(directory)
    assert len(records(directory)) == 9
    findings(directory, code=0)


@pytest.mark.parametrize("within", [100, 5000])
def test_a_bad_sector_costs_its_block(
    directory: Path, monkeypatch: pytest.MonkeyPatch, within: int
) -> None:
    read, bad = os.preadv, slot_offset(5, SLOTS, LAYOUT) + within

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if name == str(segment(directory, 1)) and offset <= bad < offset + len(buffers[0]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    assert problems(findings(directory, code=1)) == [("record", 5)]
    findings("--repair", directory, code=0)
    assert len(records(directory)) == 9


async def test_a_block_that_was_evicted_is_no_problem(directory: Path) -> None:
    other = write_for(10, BlockKey(bytes(16)), LAYOUT.root, 11, LAYOUT)
    await store([directory], [other])
    [namespace] = findings(directory, code=0)["namespaces"]
    assert namespace["unrecorded"] == 1


async def test_a_record_of_a_slot_with_another_block_is_found(directory: Path) -> None:
    other = write_for(3, BlockKey(bytes(16)), LAYOUT.root, 11, LAYOUT)
    await store([directory], [other])
    assert problems(findings(directory, code=1)) == [("record", 3)]


def test_damaged_records_are_found(directory: Path) -> None:
    index = Index(directory / "index", MiB)
    wrong_parent = IndexRecord(KEYS[2], KEYS[7], 2, 3)
    wrong_slot = IndexRecord(KEYS[4], KEYS[3], 4_000_000, 5)
    index.commit([IndexChange(LAYOUT.fingerprint, [wrong_parent, wrong_slot])])
    index.close()
    found = problems(findings(directory, code=1))
    assert sorted(found, key=str) == [("record", 2), ("record", 4_000_000)]
    findings("--repair", directory, code=0)
    assert len(records(directory)) == 8


def test_a_missing_segment_costs_its_blocks(directory: Path) -> None:
    segment(directory, 1).unlink()
    assert len(problems(findings(directory, code=1))) == 4
    findings("--repair", directory, code=0)
    assert sorted(records(directory).values()) == [0, 1, 2, 3, 8, 9]


@pytest.mark.parametrize("cut", [0, 100, 5000, 30000])
def test_a_segment_cut_short_costs_the_blocks_past_its_end(directory: Path, cut: int) -> None:
    os.truncate(segment(directory, 1), cut)
    findings(directory, code=1)
    findings("--repair", directory, code=0)
    findings(directory, code=0)
    whole = max(0, cut - 4096) // (4096 + LAYOUT.block_bytes)
    assert len(records(directory)) == 6 + whole


def test_a_damaged_segment_header_is_written_anew(directory: Path) -> None:
    held = segment(directory, 1).read_bytes()
    flip(segment(directory, 1), 40)
    assert problems(findings(directory, code=1)) == [("segment", None)]
    findings("--repair", directory, code=0)
    assert segment(directory, 1).read_bytes() == held
    findings(directory, code=0)
    assert len(records(directory)) == 10


async def test_stray_segments_are_removed(directory: Path) -> None:
    layout = opaque_layout("unknown", block_tokens=4, token_bytes=1500)
    await store([directory], [write_for(0, KEYS[0], layout.root, 1, layout)], layout)
    assert problems(findings(directory, code=1)) == [("stray", None)]
    findings("--repair", directory, code=0)
    [namespace] = findings(directory, code=0)["namespaces"]
    assert namespace["segments"] == 3


def test_a_segment_under_another_name_is_found(directory: Path) -> None:
    segment(directory, 2).rename(segment(directory, 7))
    assert ("stray", None) in problems(findings(directory, code=1))


def test_a_region_in_two_directories_is_found(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    shutil.copy(segment(directory, 1), tmp_path / "two")
    assert problems(findings(directory, tmp_path / "two", code=1)) == [("stray", None)]


# ---- the index


def lose(index: Path) -> None:
    shutil.rmtree(index)


def truncate(index: Path) -> None:
    os.truncate(index / "data.mdb", 9000)


def scribble(index: Path) -> None:
    data = index / "data.mdb"
    data.write_bytes(b"\xa5" * data.stat().st_size)


def scribble_pages(index: Path) -> None:
    """Leave the first two pages: LMDB opens it, and may end the process that reads on."""
    data = index / "data.mdb"
    held = data.read_bytes()
    data.write_bytes(held[:8192] + b"\x5a" * (len(held) - 8192))


@pytest.mark.parametrize("harm", [lose, truncate, scribble, scribble_pages])
def test_a_lost_index_is_made_anew(directory: Path, harm: Callable[[Path], None]) -> None:
    before = records(directory)
    harm(directory / "index")
    said = findings(directory, code=1)
    assert ("index", None) in problems(said)
    rebuilt = findings("--rebuild", directory, code=0)
    assert rebuilt["done"] == ["a new index with 10 records"]
    assert records(directory) == before
    index = Index(directory / "index", MiB)
    assert index.sequence_max() == 10
    index.close()
    findings(directory, code=0)


async def test_the_newest_of_two_slots_with_one_block_wins(directory: Path) -> None:
    newer = write_for(10, KEYS[5], KEYS[4], 11, LAYOUT)
    older = write_for(11, KEYS[6], KEYS[5], 1, LAYOUT)
    await store([directory], [newer, older])
    [namespace] = findings("--rebuild", directory, code=0)["namespaces"]
    assert namespace["unrecorded"] == 2
    found = records(directory)
    assert (found[KEYS[5]], found[KEYS[6]]) == (10, 6)


async def test_the_newest_slot_that_is_right_wins(directory: Path) -> None:
    newer = write_for(10, KEYS[5], KEYS[4], 11, LAYOUT)
    await store([directory], [newer])
    flip_slot(directory, 10, 5000)
    findings("--rebuild", directory, code=0)
    assert records(directory)[KEYS[5]] == 5


def test_a_rebuild_leaves_out_what_is_not_right(directory: Path) -> None:
    flip_slot(directory, 1, 4096)
    flip_slot(directory, 6, 50)
    flip(segment(directory, 2), 40)
    findings("--rebuild", directory, code=0)
    assert sorted(records(directory).values()) == [0, 2, 3, 4, 5, 7, 8, 9]
    assert (directory / "index.old").is_dir()
    findings(directory, code=0)


def describe_nothing(directory: Path) -> None:
    for path in directory.glob("*.segment"):
        page = memoryview(bytearray(path.read_bytes()[:4096]))
        header = unpack_segment(page)
        assert isinstance(header, SegmentHeader)
        pack_segment(replace(header, description=b""), page)
        with path.open("r+b") as file:
            file.write(page)


def test_segments_that_do_not_say_their_layout_need_the_index(directory: Path) -> None:
    describe_nothing(directory)
    findings("--rebuild", directory, code=0)
    assert len(records(directory)) == 10
    lose(directory / "index")
    assert problems(findings("--rebuild", directory, code=1)) == [("stray", None)] * 3
    assert len(list(directory.glob("*.segment"))) == 3, "they are not touched"


async def test_a_rebuild_reads_all_directories(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    await store(places, ten_blocks())
    findings("--rebuild", *places, code=0)
    assert len(records(places[0])) == 10
    findings(*places, code=0)


def test_a_rebuild_that_was_interrupted_is_begun_anew(directory: Path) -> None:
    (directory / "index.new").mkdir()
    (directory / "index.new" / "data.mdb").write_bytes(b"half")
    findings("--rebuild", directory, code=0)
    assert len(records(directory)) == 10
    assert not (directory / "index.new").exists()


# ---- directories that belong together


@pytest.fixture
async def striped(tmp_path: Path) -> list[Path]:
    """Two directories with ten blocks, which the index knows to be its own."""
    places = [tmp_path / "one", tmp_path / "two"]
    writes = ten_blocks()
    await store(places, writes)
    record(places[0], writes)
    index = Index(places[0] / "index", MiB)
    index.remember_directories(identified(places))
    index.close()
    return places


@pytest.mark.parametrize("options", [[], ["--repair"], ["--rebuild"]], ids=str)
def test_a_directory_that_is_left_out_is_missed(striped: list[Path], options: list[str]) -> None:
    """Otherwise a repair drops all records of blocks there."""
    result = run(*options, striped[0])
    assert result.exit_code == 2
    assert str(striped[1]) in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: name it too")
    findings(*striped, code=0)
    assert len(records(striped[0])) == 10


def test_a_directory_may_have_moved(striped: list[Path], tmp_path: Path) -> None:
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in striped]
    findings("--repair", *moved, code=0)
    assert len(records(moved[0])) == 10


async def test_a_strange_directory_is_refused(striped: list[Path], tmp_path: Path) -> None:
    """Otherwise a repair removes the segments of another daemon: no record here names them."""
    layout = opaque_layout("another", block_tokens=4, token_bytes=1500)
    other = tmp_path / "other"
    await store([other], [write_for(0, KEYS[0], layout.root, 1, layout)], layout)
    result = run("--repair", *striped, other)
    assert result.exit_code == 2
    assert str(other) in result.stderr
    assert len(list(other.glob("*.segment"))) == 1
    findings("--rebuild", *striped, other, code=0)
    findings(*striped, other, code=0)


# ---- what is refused


def test_a_directory_that_a_daemon_has_is_refused(directory: Path) -> None:
    lock = DirectoryLock(directory)
    result = run(directory)
    lock.release()
    assert result.exit_code == 1
    assert f"is in use by process {os.getpid()}" in result.stderr
    assert "stop the daemon" in result.stderr


def test_another_format_version_is_refused(directory: Path) -> None:
    with segment(directory, 0).open("r+b") as file:
        file.seek(8)
        file.write(bytes([3]))
    assert other_version(memoryview(segment(directory, 0).read_bytes())) == 3
    for options in ([], ["--repair"], ["--rebuild"]):
        result = run(*options, directory)
        assert result.exit_code == 2
        assert "format version 3" in result.stderr


def test_input_that_cannot_be_used_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for arguments in (
        [],
        [tmp_path / "nowhere"],
        [directory, directory],
        [tmp_path / "two", directory],
        ["--repair", "--rebuild", directory],
        ["--set", "tiers.hots.bytes=8GiB"],
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stderr.splitlines()[-1].startswith("next: ")
    assert not (tmp_path / "nowhere").exists()


def test_the_directories_come_from_the_settings(directory: Path) -> None:
    settings = [f"--set=tiers.disk.directories={directory}", "--set=tiers.disk.bytes=64MiB"]
    assert findings(*settings, code=0)["directories"] == [str(directory)]
