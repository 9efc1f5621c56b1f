"""Verifies disk directories that no daemon has, and repairs what can be repaired.

The caller holds the locks of the directories. A record is right if its slot holds its block;
segments without records are room that the daemon would use again. `rebuild` is for directories
whose index is lost.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tierd.core.errors import InvalidRequest
from tierd.core.slots import describe
from tierd.core.units import GiB
from tierd.index.directories import identity, missing
from tierd.index.lmdb_index import Index, IndexChange, IndexRecord, NamespaceRecord
from tierd.index.probe import probe
from tierd.transfer.survey import (
    INDEX_NAME,
    Problem,
    SegmentFile,
    SlotFound,
    Survey,
    mend,
    read_slots,
    shape_fault,
    survey,
)

_THREADS: Final = 4

Tell = Callable[[int, int], None]
"""Is told how many segments were read, and how many there are."""


@dataclass(slots=True)
class NamespaceFindings:
    """What one namespace has on disk. `unrecorded` slots are right, and room to the daemon."""

    name: str
    fingerprint: str
    block_bytes: int
    segments: int = 0
    records: int = 0
    good: int = 0
    unrecorded: int = 0
    damaged: int = 0


@dataclass(slots=True)
class Findings:
    """What a check found, with what would repair it."""

    namespaces: list[NamespaceFindings] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    drops: list[IndexChange] = field(default_factory=list)
    removable: list[Path] = field(default_factory=list)
    mendable: list[tuple[SegmentFile, NamespaceRecord]] = field(default_factory=list)


def check(directories: Sequence[Path], tell: Tell) -> Findings:
    """Read everything in `directories`, the first of which has the index. Changes nothing.

    Raises:
        InvalidRequest: they are not those of the index.
        FormatMismatch: a file is of another format version.
        TierOffline: the index cannot be read.
        OSError: a file or directory cannot be read.
    """
    found, findings = survey(directories), Findings()
    findings.problems += found.strays
    place = directories[0] / INDEX_NAME
    fault = probe(place)
    if fault is not None:
        if found.segments or place.exists():
            findings.problems.append(Problem("index", str(place), fault))
        return findings
    index = Index(place, GiB)
    try:
        require_all(index, directories)
        _refuse_strangers(index, found)
        namespaces = index.namespaces()
        known = {namespace.layout.fingerprint for namespace in namespaces}
        _note_strangers(found, known, findings)
        total = sum(len(found.segments.get(each, {})) for each in known)
        done = 0
        for namespace in namespaces:
            fingerprint = namespace.layout.fingerprint
            segments = found.segments.get(fingerprint, {})
            _check_namespace(
                namespace,
                segments,
                list(index.load(fingerprint)),
                findings,
                lambda read, before=done: tell(before + read, total),  # type: ignore[misc]
            )
            done += len(segments)
    finally:
        index.close()
    return findings


def repair(directories: Sequence[Path], findings: Findings) -> list[str]:
    """Do what `findings` say would help, and return what was done, for people.

    Raises:
        TierOffline: the index cannot be written.
        OSError: a file cannot be written or removed.
    """
    done = []
    if findings.drops:
        index = Index(directories[0] / INDEX_NAME, GiB)
        try:
            index.commit(findings.drops)
        finally:
            index.close()
        count = sum(len(change.dropped) for change in findings.drops)
        done.append(f"{count} records dropped")
    for segment, namespace in findings.mendable:
        mend(segment, namespace, describe(namespace.name, namespace.layout))
        done.append(f"{segment.path.name}: header written anew")
    for path in findings.removable:
        path.unlink()
        done.append(f"{path.name} removed")
    for directory in {path.parent for path in findings.removable}:
        sync_names(directory)
    return done


def unrepaired(findings: Findings) -> list[Problem]:
    """Return the problems that `repair` does not solve."""
    solved = {str(path) for path in findings.removable}
    solved |= {str(segment.path) for segment, _ in findings.mendable}
    return [
        problem
        for problem in findings.problems
        if problem.kind != "record" and problem.path not in solved
    ]


def require_all(index: Index, directories: Sequence[Path]) -> None:
    """See that no directory with segments of the index is left out.

    Raises:
        InvalidRequest: one is. Its blocks would be taken for lost.
        OSError: a directory cannot be read.
    """
    for path in missing(index.directories(), directories):
        raise InvalidRequest(
            "directories",
            f"without one that belongs to the index: it was at {path}",
            "name it too, wherever it is now; if it is gone for good, start a daemon whose "
            "tiers.disk.directories leave it out, stop it, and check again",
        )


def read_all(
    pairs: Iterable[tuple[SegmentFile, NamespaceRecord]],
) -> Iterator[tuple[SegmentFile, list[SlotFound]]]:
    """Yield the slots of every segment, in order, reading several at once."""
    listed = list(pairs)
    with ThreadPoolExecutor(_THREADS) as threads:
        slots = threads.map(lambda pair: read_slots(*pair), listed)
        for (segment, _), found in zip(listed, slots, strict=True):
            yield segment, found


def sync_names(directory: Path) -> None:
    """Make what was renamed or removed in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_strangers(index: Index, found: Survey) -> None:
    """See that every directory with segments belongs to the index, if that knows its own."""
    known = index.directories()
    places = {each.path.parent for regions in found.segments.values() for each in regions.values()}
    for path in sorted(places) if known else ():
        if identity(path) not in known:
            raise InvalidRequest(
                "directories",
                f"with {path}, whose segments are not those of the index",
                "leave it out; or have `tierd check --rebuild` take its blocks in",
            )


def _note_strangers(found: Survey, known: set[bytes], findings: Findings) -> None:
    for fingerprint in found.segments.keys() - known:
        for segment in found.segments[fingerprint].values():
            cause = "no record names it, and the index does not know its namespace"
            findings.problems.append(Problem("stray", str(segment.path), cause))
            findings.removable.append(segment.path)


def _check_namespace(
    namespace: NamespaceRecord,
    segments: dict[int, SegmentFile],
    records: Sequence[IndexRecord],
    findings: Findings,
    tell: Callable[[int], None],
) -> None:
    layout = namespace.layout
    result = NamespaceFindings(namespace.name, layout.fingerprint.hex(), layout.block_bytes)
    result.segments, result.records = len(segments), len(records)
    findings.namespaces.append(result)
    by_region: dict[int, list[IndexRecord]] = defaultdict(list)
    for record in records:
        by_region[record.slot // namespace.region_slots].append(record)
    usable = [segment for segment in segments.values() if _is_usable(segment, namespace, findings)]
    bad: list[tuple[IndexRecord, str, str]] = []
    for region in by_region.keys() - {segment.region for segment in usable}:
        path = str(segments[region].path) if region in segments else ""
        cause = "its segment cannot be read" if path else "its region has no segment"
        bad += [(record, path, cause) for record in by_region[region]]
    pairs = ((segment, namespace) for segment in usable)
    for read, (segment, slots) in enumerate(read_all(pairs), start=1):
        held = {slot.slot: slot for slot in slots}
        for record in by_region[segment.region]:
            fault = _record_fault(record, held.get(record.slot))
            if fault is not None:
                bad.append((record, str(segment.path), fault))
        _count(result, slots, {record.slot for record in by_region[segment.region]})
        if not by_region[segment.region] and segment.header is not None:
            findings.removable.append(segment.path)
        tell(read)
    result.good = len(records) - len(bad)
    findings.problems += [
        Problem("record", path, cause, record.slot, record.key.hex()) for record, path, cause in bad
    ]
    if bad:
        dropped = [record.key for record, _, _ in bad]
        findings.drops.append(IndexChange(layout.fingerprint, (), dropped))


def _is_usable(segment: SegmentFile, namespace: NamespaceRecord, findings: Findings) -> bool:
    """Return whether the segment's slots are where the namespace expects them."""
    fault = shape_fault(segment, namespace)
    if fault is not None:
        findings.problems.append(Problem("segment", str(segment.path), fault))
        return False
    if segment.header is None:
        findings.problems.append(Problem("segment", str(segment.path), segment.fault))
        findings.mendable.append((segment, namespace))
    return True


def _record_fault(record: IndexRecord, held: SlotFound | None) -> str | None:
    if held is None:
        return "its slot has no header that can be read"
    if held.header.key != record.key:
        return f"block {held.header.key.hex()} is in the slot"
    if held.header.parent != record.parent:
        return f"its parent is {held.header.parent.hex()}, the record says {record.parent.hex()}"
    return held.fault


def _count(result: NamespaceFindings, slots: Sequence[SlotFound], recorded: set[int]) -> None:
    kinds = Counter(slot.fault is None for slot in slots if slot.slot not in recorded)
    result.unrecorded += kinds[True]
    result.damaged += kinds[False]
