"""The index: what was committed is there after any end of the process, whole batches at a time."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from tierd.core.errors import FormatMismatch, TierOffline
from tierd.core.keys import BlockKey
from tierd.core.layouts import LayerGroup, LayoutSpec, opaque_layout
from tierd.core.units import MiB
from tierd.index.lmdb_index import Index, IndexChange, IndexRecord, NamespaceRecord

OURS = opaque_layout("ours", 16, 64).fingerprint
THEIRS = opaque_layout("theirs", 16, 64).fingerprint
MAP_BYTES = 16 * MiB


def key_of(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(16, "big"))


def record(number: int, slot: int = 0, sequence: int = 0) -> IndexRecord:
    return IndexRecord(key_of(number), key_of(number + 1000), slot, sequence)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path, MAP_BYTES)
    yield made
    made.close()


def reopened(index: Index, tmp_path: Path) -> Index:
    index.close()
    return Index(tmp_path, MAP_BYTES)


def test_a_new_index_is_empty(index: Index) -> None:
    assert list(index.load(OURS)) == []
    assert index.namespaces() == []
    assert index.sequence_max() == 0


def test_records_come_back_oldest_first_after_reopening(index: Index, tmp_path: Path) -> None:
    records = [record(n, slot=n * 7, sequence=(n * 37) % 101) for n in range(1, 101)]
    index.commit([IndexChange(OURS, records)])
    again = reopened(index, tmp_path)
    assert list(again.load(OURS)) == sorted(records, key=lambda r: r.sequence)
    again.close()


def test_large_numbers_and_trailing_zeros_survive(index: Index) -> None:
    kept = IndexRecord(BlockKey(b"k" + bytes(15)), BlockKey(bytes(16)), 2**40, 2**63)
    index.commit([IndexChange(OURS, [kept])])
    assert list(index.load(OURS)) == [kept]
    assert index.sequence_max() == 2**63


def test_namespaces_are_apart(index: Index) -> None:
    index.commit([IndexChange(OURS, [record(1, 1)]), IndexChange(THEIRS, [record(1, 2)])])
    assert list(index.load(OURS)) == [record(1, 1)]
    assert list(index.load(THEIRS)) == [record(1, 2)]
    index.commit([IndexChange(THEIRS, dropped=[key_of(1)])])
    assert list(index.load(OURS)) == [record(1, 1)]
    assert list(index.load(THEIRS)) == []


def test_a_dropped_keys_slot_serves_another_in_the_same_batch(index: Index) -> None:
    index.commit([IndexChange(OURS, [record(1, slot=5, sequence=1)])])
    index.commit([IndexChange(OURS, [record(2, slot=5, sequence=2)], [key_of(1)])])
    assert list(index.load(OURS)) == [record(2, slot=5, sequence=2)]


def test_a_key_dropped_and_added_in_one_batch_is_there(index: Index) -> None:
    index.commit([IndexChange(OURS, [record(1, slot=5, sequence=1)])])
    index.commit([IndexChange(OURS, [record(1, slot=6, sequence=2)], [key_of(1)])])
    assert list(index.load(OURS)) == [record(1, slot=6, sequence=2)]


def test_changes_of_a_batch_apply_in_order(index: Index) -> None:
    index.commit([IndexChange(OURS, [record(1)]), IndexChange(OURS, dropped=[key_of(1)])])
    assert list(index.load(OURS)) == []


def test_dropping_what_is_not_there_is_fine(index: Index) -> None:
    index.commit([IndexChange(OURS, dropped=[key_of(9)])])


def test_the_largest_sequence_outlives_its_record(index: Index, tmp_path: Path) -> None:
    index.commit([IndexChange(OURS, [record(1, sequence=8), record(2, sequence=3)])])
    index.commit([IndexChange(OURS, [record(3, sequence=4)], [key_of(1)])])
    again = reopened(index, tmp_path)
    assert again.sequence_max() == 8
    again.close()


def test_a_batch_that_does_not_fit_changes_nothing(index: Index) -> None:
    index.commit([IndexChange(OURS, [record(1)])])
    too_many = [record(n) for n in range(2, 400_000)]
    with pytest.raises(TierOffline, match="16 MiB are used"):
        index.commit([IndexChange(OURS, dropped=[key_of(1)]), IndexChange(OURS, too_many)])
    assert list(index.load(OURS)) == [record(1)]
    index.commit([IndexChange(OURS, [record(2)])])
    assert len(list(index.load(OURS))) == 2


def test_namespaces_come_back_with_their_layouts(index: Index, tmp_path: Path) -> None:
    groups = (LayerGroup(2, 4, 64), LayerGroup(3, kind="recurrent", state_bytes=100))
    layout = LayoutSpec("m", groups, 16, shards=3, tenant="täglich", salt="s")
    records = [
        NamespaceRecord("first", layout, 32),
        NamespaceRecord("second", opaque_layout("x", 16, 8), 1),
    ]
    for added in records:
        index.add_namespace(added)
    again = reopened(index, tmp_path)
    assert sorted(again.namespaces(), key=lambda r: r.name) == records
    again.close()


def test_closes_twice(index: Index) -> None:
    index.close()
    index.close()


def test_another_version_is_refused_and_left_alone(index: Index, tmp_path: Path) -> None:
    index.close()
    with lmdb.open(str(tmp_path), max_dbs=3) as env:
        meta = env.open_db(b"meta")
        with env.begin(db=meta, write=True) as txn:
            assert txn.get(b"format") == (1).to_bytes(8, "little")
            txn.put(b"format", (2).to_bytes(8, "little"))
    for _ in range(2):
        with pytest.raises(FormatMismatch, match="format version 2") as caught:
            Index(tmp_path, MAP_BYTES)
        assert caught.value.remedy


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(FormatMismatch):
        Index(tmp_path, MAP_BYTES)


COMMIT_UNTIL_KILLED = """
import sys
from itertools import count
from pathlib import Path
from tierd.core.units import MiB
from tierd.index.lmdb_index import Index, IndexChange, IndexRecord
index = Index(Path(sys.argv[1]), 16 * MiB)
fingerprint = bytes.fromhex(sys.argv[2])
for batch in count(1):
    numbers = range(batch * 10, batch * 10 + 10)
    keys = [number.to_bytes(16, "big") for number in numbers]
    records = [IndexRecord(key, key, n, n) for n, key in zip(numbers, keys, strict=True)]
    before = [(number - 10).to_bytes(16, "big") for number in numbers]
    index.commit([IndexChange(fingerprint, records, before[:5])])
    sys.stdout.write(f"{batch}\\n")
    sys.stdout.flush()
"""


def test_acknowledged_batches_outlive_a_kill_and_others_are_whole_or_absent(
    tmp_path: Path,
) -> None:
    """Each batch adds ten records and drops five of the batch before."""
    command = [sys.executable, "-c", COMMIT_UNTIL_KILLED, str(tmp_path), OURS.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.kill()
        process.wait()
        acknowledged += len(process.stdout.readlines())
    index = Index(tmp_path, MAP_BYTES)
    slots = [kept.slot for kept in index.load(OURS)]
    last = slots[-1] // 10
    assert last in (acknowledged, acknowledged + 1)
    halves = [range(batch * 10 + 5, batch * 10 + 10) for batch in range(1, last)]
    assert slots == [slot for half in halves for slot in half] + list(
        range(last * 10, last * 10 + 10)
    )
    assert index.sequence_max() == last * 10 + 9
    index.close()
