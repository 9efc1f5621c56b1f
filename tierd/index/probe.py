"""Reads a whole index in a process of its own: `python -m tierd.index.probe DIRECTORY`.

Some damage makes LMDB end the process that reads. Whoever must outlive that calls `probe`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tierd.core.errors import FormatMismatch, TierOffline
from tierd.core.units import GiB
from tierd.index.lmdb_index import DATA_NAME, DamagedIndex, Index

_DAMAGED: Final = 3


def probe(directory: Path) -> str | None:
    """Return why the index in `directory` cannot be read, or None if it can be opened.

    One of another format version is for `Index` to refuse.
    """
    if not (directory / DATA_NAME).exists():
        return "there is no index"
    read = subprocess.run(
        [sys.executable, "-m", "tierd.index.probe", str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if read.returncode == 0:
        return None
    return read.stdout.strip() or "LMDB finds it damaged"


def _read_all(directory: Path) -> None:
    index = Index(directory, map_bytes=GiB)
    try:
        for namespace in index.namespaces():
            index.load(namespace.layout.fingerprint)
        index.sequence_max()
    finally:
        index.close()


if __name__ == "__main__":
    try:
        _read_all(Path(sys.argv[1]))
    except (DamagedIndex, TierOffline) as damage:
        sys.stdout.write(f"{damage}\n")
        sys.exit(_DAMAGED)
    except FormatMismatch:
        sys.exit()
