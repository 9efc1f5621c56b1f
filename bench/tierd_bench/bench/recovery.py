"""Rows of a daemon that finds a million blocks in its index when it starts.

The index is a real one. Of the segments only the headers are there: a daemon reads no block before
somebody asks for it.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Final

import lmdb

from tierd.core.slots import SegmentHeader, describe, pack_segment, segment_name, slot_stride_bytes
from tierd.core.units import PAGE_BYTES, MiB
from tierd.index.lmdb_index import Index, IndexChange, IndexRecord, NamespaceRecord
from tierd_bench.bench.rows import Figures
from tierd_bench.bench.stage import BLOCK_TOKENS, SEED, NotMeasured, Stage
from tierd_bench.bench.timing import cpu_ns, seconds, take_turns
from tierd_bench.replay.embedded import embedded_daemon
from tierd_client import BlockKey, Client, connect, opaque_layout

_NAME: Final = "recovered"
_LAYOUT: Final = opaque_layout(_NAME, BLOCK_TOKENS, PAGE_BYTES // BLOCK_TOKENS)
_CHAIN_BLOCKS: Final = 1000
_REGION_SLOTS: Final = 31
"""As many as there are in a region of 64 MiB with blocks of 2 MiB."""

_COMMITTED: Final = 50_000
_INDEX_BYTES: Final = 1024 * MiB
_HOST_BYTES: Final = 64 * MiB
_MS: Final = 1000
_NS_PER_MS: Final = 1_000_000

Chains = list[list[BlockKey]]


def recovery_ready(stage: Stage) -> Figures:
    """Return the seconds from the start of a daemon, after kill -9, until it answers."""
    blocks, place = stage.sizes.recovered, _remembered(stage)

    def ready() -> float:
        with _daemon(place, blocks) as client:
            os.kill(client.status().pid, signal.SIGKILL)
        start = time.perf_counter()
        with _daemon(place, blocks):
            return time.perf_counter() - start

    scan = partial(seconds, partial(_scan, place / "index"))
    values, limits = take_turns(stage.sizes.disk_runs, stage.tell, ready, scan)
    what = "a scan of the same LMDB file that does nothing else"
    return Figures("s", values, limits, what, f"{blocks} blocks in {_regions(blocks)} segments")


def recovery_bytes(stage: Stage) -> Figures:
    """Return the daemon's memory for a block that it found, without the mapped index file."""
    blocks, place = stage.sizes.recovered, _remembered(stage)
    nothing = stage.directory / "nothing"

    def block_bytes() -> float:
        with _daemon(nothing, blocks) as client:
            before = _memory_bytes(client.status().pid)
        with _daemon(place, blocks) as client:
            return (_memory_bytes(client.status().pid) - before) / blocks

    def dict_bytes() -> float:
        keys = [key for chain in _chains(blocks) for key in chain]
        return (sys.getsizeof(dict.fromkeys(keys)) + sum(map(sys.getsizeof, keys))) / blocks

    values, limits = take_turns(1, stage.tell, block_bytes, dict_bytes)
    return Figures("B/block", values, limits, "a dict of the same keys", f"{blocks} blocks")


def recovery_match(stage: Stage) -> Figures:
    """Return the daemon's processor time for a match among all those blocks, less that for an
    empty message."""
    blocks, calls = stage.sizes.recovered, stage.sizes.calls
    wanted = [chain[: stage.sizes.match] for chain in _chains(blocks)]
    Random(SEED).shuffle(wanted)
    turns, limit_turns = cycle(wanted), cycle(wanted)
    table = {bytes(bytearray(key)): key for chain in _chains(blocks) for key in chain}

    def look_up() -> float:
        return _MS * seconds(lambda: [table[key] for key in next(limit_turns)])

    with _daemon(_remembered(stage), blocks) as client:
        namespace = client.open(_LAYOUT, _NAME)
        pid = client.status().pid

        def match() -> float:
            start = cpu_ns(pid)
            for _ in range(calls):
                client.ping()
            pinged = cpu_ns(pid)
            for _ in range(calls):
                chain = next(turns)
                if namespace.match(chain).blocks < len(chain):
                    raise NotMeasured("a chain that is in the index was not matched")
            return ((cpu_ns(pid) - pinged) - (pinged - start)) / _NS_PER_MS / calls

        values, limits = take_turns(stage.sizes.disk_runs, stage.tell, match, look_up)
    note = f"{len(wanted[0])} keys of {blocks} blocks, another chain each time"
    return Figures("ms", values, limits, "a loop of look-ups in a dict", note)


def _chains(blocks: int) -> Chains:
    """Return the same keys each time."""
    random = Random(SEED)
    keys = [BlockKey(random.randbytes(16)) for _ in range(blocks)]
    return [keys[first : first + _CHAIN_BLOCKS] for first in range(0, blocks, _CHAIN_BLOCKS)]


def _regions(blocks: int) -> int:
    return -(-blocks // _REGION_SLOTS)


def _remembered(stage: Stage) -> Path:
    """Return a directory as a daemon with so many blocks leaves it, but for the blocks' bytes."""
    place, blocks = stage.directory / "remembered", stage.sizes.recovered
    if place.exists():
        return place
    place.mkdir()
    index = Index(place / "index", _INDEX_BYTES)
    index.add_namespace(NamespaceRecord(_NAME, _LAYOUT, _REGION_SLOTS))
    slots = count()
    records = [
        IndexRecord(key, parent, slot := next(slots), slot + 1)
        for chain in _chains(blocks)
        for key, parent in zip(chain, [_LAYOUT.root, *chain], strict=False)
    ]
    for first in range(0, blocks, _COMMITTED):
        batch = records[first : first + _COMMITTED]
        index.commit([IndexChange(_LAYOUT.fingerprint, batch)])
    index.close()
    _make_segments(place, _regions(blocks))
    return place


def _make_segments(place: Path, regions: int) -> None:
    stride = slot_stride_bytes(_LAYOUT)
    said = describe(_NAME, _LAYOUT)
    page = memoryview(bytearray(PAGE_BYTES))
    for region in range(regions):
        pack_segment(SegmentHeader(_LAYOUT.fingerprint, region, _REGION_SLOTS, stride, said), page)
        with (place / segment_name(_LAYOUT.fingerprint, region)).open("wb") as file:
            file.write(page)
            file.truncate(PAGE_BYTES + _REGION_SLOTS * stride)


@contextmanager
def _daemon(place: Path, blocks: int) -> Iterator[Client]:
    region_bytes = PAGE_BYTES + _REGION_SLOTS * slot_stride_bytes(_LAYOUT)
    settings = [
        f"tiers.region_bytes={region_bytes}",
        f"tiers.host.bytes={_HOST_BYTES}",
        f"tiers.disk.bytes={(_regions(blocks) + 1) * region_bytes}",
        "tiers.disk.scrub_bytes_per_s=0",
    ]
    with embedded_daemon(settings, place) as daemon, connect(daemon.address) as client:
        yield client


def _memory_bytes(pid: int) -> int:
    """Return the memory that is a process's own. Pages of files are the kernel's to drop."""
    found = re.search(r"^Anonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def _scan(directory: Path) -> None:
    with lmdb.open(str(directory), readonly=True, max_dbs=1, lock=False) as env:
        blocks = env.open_db(b"blocks", create=False)
        with env.begin(db=blocks) as transaction:
            for _ in transaction.cursor():
                pass
