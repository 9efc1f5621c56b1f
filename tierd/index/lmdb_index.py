"""What of the catalog survives a restart: which block is in which slot of the disk tier.

LMDB holds the records, in batches that are committed after the bytes they speak of are
durable. A record is a hint until the slot it names has been verified, so a record may be stale
and must never be wrong about a block that nobody touched. `FORMAT.md` draws the bytes. When to
commit, and in which thread, is the caller's business: every call here blocks.
"""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, starmap
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from tierd.core.errors import FormatMismatch, InvalidRequest, TierOffline
from tierd.core.keys import KEY_BYTES, BlockKey
from tierd.core.layouts import LayoutSpec
from tierd.core.units import format_bytes

FORMAT_VERSION: Final = 1

_U64 = struct.Struct("<Q")
_VALUE = struct.Struct("<16sQQ")
_VALUES = np.dtype([("parent", "V16"), ("slot", "<u8"), ("sequence", "<u8")])
_KEYS = np.dtype([("fingerprint", "V16"), ("key", "V16")])

DATA_NAME: Final = "data.mdb"

_AT_ONCE: Final = 8192
"""Records that are Python objects at one time while a namespace is read."""

_FORMAT = b"format"
_SEQUENCE_MAX = b"sequence_max"
_DIRECTORIES = b"directories"


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """A namespace that has, or had, blocks on disk."""

    name: str
    layout: LayoutSpec
    region_slots: int


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """One block on disk."""

    key: BlockKey
    parent: BlockKey
    slot: int
    sequence: int


@dataclass(frozen=True, slots=True)
class IndexChange:
    """What changed in one namespace. Drops come before adds, so a key in both is in the index.

    A block that was added and then dropped belongs in `dropped` only: its slot may hold
    another by now.
    """

    fingerprint: bytes
    added: Sequence[IndexRecord] = ()
    dropped: Sequence[BlockKey] = ()


class DamagedIndex(FormatMismatch):
    """The files are of this version, and cannot be read. The segments can replace them."""


class Index:
    """The records of one data directory.

    Units: `map_bytes` is the most that the file may grow to; 300 bytes a block are ample.
    Concurrency: calls may come from any thread; commits take turns. `close` after the rest.

    Raises:
        FormatMismatch: the files are of another format version.
        DamagedIndex: the files are no index.
        TierOffline: the files cannot be read or written, or `map_bytes` are used up.
    """

    def __init__(self, directory: Path, map_bytes: int) -> None:
        self._directory = directory
        self._map_bytes = map_bytes
        with self._faults():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # sync and metasync: a commit that has returned survives a power cut.
            self._env = lmdb.open(
                str(directory),
                map_size=map_bytes,
                max_dbs=3,
                mode=0o600,
                sync=True,
                metasync=True,
                readahead=True,
            )
            self._fill_up()
            self._meta = self._env.open_db(b"meta")
            self._namespaces = self._env.open_db(b"namespaces")
            self._blocks = self._env.open_db(b"blocks")
        try:
            self._check_version()
        except FormatMismatch:
            self.close()
            raise

    def namespaces(self) -> list[NamespaceRecord]:
        """Return every namespace that was added, in no order that matters."""
        with self._faults(), self._env.begin(db=self._namespaces) as txn:
            return [self._namespace(bytes(key), bytes(value)) for key, value in txn.cursor()]

    def add_namespace(self, record: NamespaceRecord) -> None:
        """Remember `record`, durably. One with the same layout is replaced."""
        fields = {
            "name": record.name,
            "layout": record.layout.given(),
            "region_slots": record.region_slots,
        }
        packed = json.dumps(fields, separators=(",", ":")).encode()
        with self._faults(), self._env.begin(db=self._namespaces, write=True) as txn:
            txn.put(record.layout.fingerprint, packed)

    def load(self, fingerprint: bytes) -> Iterator[IndexRecord]:
        """Return the records of a namespace, oldest first, as they are now."""
        keys, values = self._oldest_first(fingerprint)
        columns = (keys["key"], values["parent"], values["slot"], values["sequence"])
        return starmap(IndexRecord, _rows(columns))

    def copies(self, fingerprint: bytes) -> Iterator[tuple[BlockKey, BlockKey, int]]:
        """Return key, parent and slot of a namespace's records, oldest first, as they are now.

        That is `load` for a million of them: with fewer objects, which soon are free again.
        """
        keys, values = self._oldest_first(fingerprint)
        return _rows((keys["key"], values["parent"], values["slot"]))

    def commit(self, changes: Sequence[IndexChange]) -> None:
        """Apply all of `changes`, in order, or none; on return they are durable."""
        with self._faults(), self._env.begin(db=self._blocks, write=True) as txn:
            newest = _u64(txn.get(_SEQUENCE_MAX, db=self._meta))
            for change in changes:
                assert len(change.fingerprint) == KEY_BYTES, change.fingerprint
                for key in change.dropped:
                    txn.delete(change.fingerprint + key)
                for record in change.added:
                    packed = _VALUE.pack(record.parent, record.slot, record.sequence)
                    txn.put(change.fingerprint + record.key, packed)
                    newest = max(newest, record.sequence)
            txn.put(_SEQUENCE_MAX, _U64.pack(newest), db=self._meta)

    def sequence_max(self) -> int:
        """Return the largest sequence number that was ever committed, 0 in a new index."""
        with self._faults(), self._env.begin(db=self._meta) as txn:
            return _u64(txn.get(_SEQUENCE_MAX))

    def directories(self) -> dict[str, str]:
        """Return the identities of the directories with its segments, and the path of each.

        Empty in an index of a tierd that did not remember them.
        """
        with self._faults(), self._env.begin(db=self._meta) as txn:
            packed = txn.get(_DIRECTORIES)
        try:
            return dict(json.loads(packed)) if packed else {}
        except (ValueError, TypeError) as error:
            raise self._damaged("directories that do not read") from error

    def remember_directories(self, known: dict[str, str]) -> None:
        """Remember which directories have its segments, durably, in place of those before."""
        with self._faults(), self._env.begin(db=self._meta, write=True) as txn:
            txn.put(_DIRECTORIES, json.dumps(known).encode())

    def close(self) -> None:
        """Give back the files and the mapping. Safe to call twice."""
        self._env.close()

    def _fill_up(self) -> None:
        """Give a file that was cut short its size back.

        LMDB reads its pages through a mapping, where a page past the end of the file is the
        end of the process. A page of zeros is a fault that LMDB reports.
        """
        size = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        path = self._directory / DATA_NAME
        if path.stat().st_size < size:
            os.truncate(path, size)

    def _check_version(self) -> None:
        with self._faults(), self._env.begin(db=self._meta, write=True) as txn:
            packed = txn.get(_FORMAT)
            if packed is None:
                txn.put(_FORMAT, _U64.pack(FORMAT_VERSION))
                return
        if packed != _U64.pack(FORMAT_VERSION):
            raise self._mismatch(f"format version {int.from_bytes(packed, 'little')}")

    def _oldest_first(self, fingerprint: bytes) -> tuple[Any, Any]:
        keys, values = self._dump(fingerprint)
        order = np.argsort(values["sequence"], kind="stable")
        return keys[order], values[order]

    def _dump(self, fingerprint: bytes) -> tuple[Any, Any]:
        """Return all keys and all values of a namespace as arrays.

        A loop over records costs seconds for a million of them. Joining them first leaves
        the loops to libraries.
        """
        keys, values = bytearray(), bytearray()
        with self._faults(), self._env.begin(db=self._blocks) as txn:
            cursor = txn.cursor()
            records = iter(cursor) if cursor.set_range(fingerprint) else iter(())
            while piece := list(islice(records, _AT_ONCE)):
                if not piece[-1][0].startswith(fingerprint):
                    piece = [pair for pair in piece if pair[0].startswith(fingerprint)]
                    records = iter(())
                for column, joined in zip(zip(*piece, strict=True), (keys, values), strict=False):
                    joined += b"".join(column)
        try:
            return np.frombuffer(keys, _KEYS), np.frombuffer(values, _VALUES)
        except ValueError as error:
            raise self._damaged("records of another size") from error

    def _namespace(self, fingerprint: bytes, packed: bytes) -> NamespaceRecord:
        try:
            fields = json.loads(packed)
            layout = LayoutSpec.of(fields["layout"])
            record = NamespaceRecord(fields["name"], layout, fields["region_slots"])
        except (ValueError, KeyError, TypeError, InvalidRequest) as error:
            raise self._damaged(f"namespace {fingerprint.hex()} does not read") from error
        if layout.fingerprint != fingerprint:
            raise self._damaged(f"a layout of namespace {record.name!r} that reads differently")
        return record

    def _mismatch(self, found: str) -> FormatMismatch:
        remedy = "run the tierd that wrote it, or move the directory away and start empty"
        return FormatMismatch(str(self._directory), found, remedy)

    def _damaged(self, found: str) -> DamagedIndex:
        remedy = "make it anew from the segments with `tierd check --rebuild`"
        return DamagedIndex(str(self._directory), found, remedy)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise self._damaged(f"no index: {error}") from error
        except lmdb.MapFullError as error:
            cause = f"{self._directory}: all {format_bytes(self._map_bytes)} are used"
            raise TierOffline("index", cause) from error
        except (lmdb.Error, OSError) as error:
            raise TierOffline("index", f"{self._directory}: {error}") from error


def _u64(packed: bytes | None) -> int:
    return 0 if packed is None else int.from_bytes(packed, "little")


def _rows(columns: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of equally long arrays as Python's own values."""
    for first in range(0, len(columns[0]), _AT_ONCE):
        yield from zip(
            *(column[first : first + _AT_ONCE].tolist() for column in columns), strict=True
        )
