"""Makes a lost or damaged index anew, from slots that say what they hold.

Every slot that verifies gets a record; of several slots with one block the newest. Blocks that
had been evicted may come back with that: their bytes are right, and their room was theirs.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Final

from tierd.core.keys import BlockKey
from tierd.core.units import GiB, MiB
from tierd.index.directories import identified
from tierd.index.lmdb_index import Index, IndexChange, IndexRecord, NamespaceRecord
from tierd.index.probe import probe
from tierd.transfer.check import (
    Findings,
    NamespaceFindings,
    Tell,
    read_all,
    require_all,
    sync_names,
)
from tierd.transfer.survey import (
    INDEX_NAME,
    Problem,
    SegmentFile,
    Survey,
    namespace_of,
    shape_fault,
    survey,
)

_RECORD_BYTES: Final = 600
"""Room for a record in the new index, twice what it needs."""

_BATCH: Final = 100_000
"""Records in one commit."""


def rebuild(directories: Sequence[Path], tell: Tell) -> Findings:
    """Put a new index into the first of `directories`; the one before is kept as `index.old`.

    What cannot be used is among the problems, and is not touched. The new index takes its place
    only when it is whole, so this can be interrupted, and run again.

    Raises:
        InvalidRequest: a directory that belongs to the index before is not among them.
        FormatMismatch: a file is of another format version.
        TierOffline: the index cannot be written.
        OSError: a file or directory cannot be read or written.
    """
    found, findings = survey(directories), Findings()
    findings.problems += found.strays
    namespaces = _namespaces(found, _remembered(directories), findings)
    usable = [
        (segment, namespaces[fingerprint])
        for fingerprint in namespaces
        for segment in found.segments[fingerprint].values()
        if _is_usable(segment, namespaces[fingerprint], findings)
    ]
    records = _records(usable, findings, tell)
    _replace_index(directories, list(namespaces.values()), records)
    return findings


def _remembered(directories: Sequence[Path]) -> dict[bytes, NamespaceRecord]:
    """Return the namespaces that the index before knows, where it still reads."""
    place = directories[0] / INDEX_NAME
    if probe(place) is not None:
        return {}
    index = Index(place, GiB)
    try:
        require_all(index, directories)
        return {each.layout.fingerprint: each for each in index.namespaces()}
    finally:
        index.close()


def _namespaces(
    found: Survey, remembered: dict[bytes, NamespaceRecord], findings: Findings
) -> dict[bytes, NamespaceRecord]:
    known = {}
    for fingerprint, regions in found.segments.items():
        described = namespace_of(list(regions.values()))
        namespace = described or remembered.get(fingerprint)
        if namespace is not None:
            known[fingerprint] = namespace
            continue
        cause = "no segment of its namespace says what the layout is"
        for segment in regions.values():
            findings.problems.append(Problem("stray", str(segment.path), segment.fault or cause))
    return known


def _is_usable(segment: SegmentFile, namespace: NamespaceRecord, findings: Findings) -> bool:
    fault = shape_fault(segment, namespace)
    if fault is not None:
        findings.problems.append(Problem("segment", str(segment.path), fault))
    elif segment.header is None:
        findings.problems.append(Problem("segment", str(segment.path), segment.fault))
        findings.mendable.append((segment, namespace))
    return fault is None


def _records(
    usable: Sequence[tuple[SegmentFile, NamespaceRecord]], findings: Findings, tell: Tell
) -> dict[bytes, dict[BlockKey, IndexRecord]]:
    """Read all slots; return the newest record of every block, by namespace."""
    newest: dict[bytes, dict[BlockKey, IndexRecord]] = defaultdict(dict)
    results: dict[bytes, NamespaceFindings] = {}
    for _, namespace in usable:
        layout = namespace.layout
        if layout.fingerprint not in results:
            result = NamespaceFindings(namespace.name, layout.fingerprint.hex(), layout.block_bytes)
            results[layout.fingerprint] = result
    for read, (segment, slots) in enumerate(read_all(usable), start=1):
        result, known = results[segment.fingerprint], newest[segment.fingerprint]
        result.segments += 1
        for slot in slots:
            header = slot.header
            if slot.fault is not None:
                result.damaged += 1
            elif header.key not in known or header.sequence > known[header.key].sequence:
                known[header.key] = IndexRecord(
                    header.key, header.parent, slot.slot, header.sequence
                )
        result.unrecorded += sum(slot.fault is None for slot in slots)
        tell(read, len(usable))
    for fingerprint, result in results.items():
        result.records = result.good = len(newest[fingerprint])
        result.unrecorded -= result.good
    findings.namespaces += results.values()
    return newest


def _replace_index(
    directories: Sequence[Path],
    namespaces: Sequence[NamespaceRecord],
    records: dict[bytes, dict[BlockKey, IndexRecord]],
) -> None:
    directory = directories[0]
    place, made = directory / INDEX_NAME, directory / f"{INDEX_NAME}.new"
    old = directory / f"{INDEX_NAME}.old"
    rmtree(made, ignore_errors=True)
    count = sum(len(each) for each in records.values())
    index = Index(made, 64 * MiB + count * _RECORD_BYTES)
    try:
        index.remember_directories(identified(directories))
        for namespace in namespaces:
            index.add_namespace(namespace)
        for fingerprint, each in records.items():
            listed = sorted(each.values(), key=lambda record: record.sequence)
            for first in range(0, len(listed), _BATCH):
                index.commit([IndexChange(fingerprint, listed[first : first + _BATCH])])
    finally:
        index.close()
    if place.exists():
        rmtree(old, ignore_errors=True)
        place.rename(old)
    made.rename(place)
    sync_names(directory)
