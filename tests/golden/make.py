"""Writes the files here, once for each format version: `python -m tests.golden.make`.

Files of a version that was released are never made anew. Those of a version to come make room for
the real ones when it comes.
"""

import shutil
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.integration.blocks import LAYOUT, ODD, SHARDED, chain, publish
from tests.integration.daemons import Daemon
from tierd.core.slots import FORMAT_VERSION
from tierd.core.units import MiB
from tierd_client import LayoutSpec

HERE: Final = Path(__file__).parent

HELD: Final[dict[str, tuple[LayoutSpec, int]]] = {
    "plain": (LAYOUT, 12),
    "odd": (ODD, 4),
    "sharded": (SHARDED, 3),
}
"""What is in the directory: by namespace its layout, and the blocks of its one chain."""


def make() -> None:
    """Write a directory as a daemon leaves it, and one of the version after that."""
    daemon = Daemon(16 * MiB, tiers__disk__gpu_sums="always")
    try:
        with daemon.client() as client:
            for name, (layout, blocks) in HELD.items():
                kv = client.open(layout, name)
                for part in range(layout.shards):
                    publish(kv, chain(1, blocks, layout), part)
        daemon.stop()
        (daemon.disk / "tierd.lock").unlink()
        (daemon.disk / "index" / "lock.mdb").unlink()
        _pack(daemon.disk, f"disk-v{FORMAT_VERSION}")
    finally:
        daemon.end()
    with TemporaryDirectory() as place:
        path = Path(place) / f"{'0' * 32}-000000.segment"
        version = (FORMAT_VERSION + 1).to_bytes(8, "little")
        path.write_bytes(b"tierdseg" + version + b"what only later versions know".ljust(8176))
        _pack(Path(place), f"disk-v{FORMAT_VERSION + 1}-to-come")


def _pack(directory: Path, name: str) -> None:
    with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
        archive.add(directory, arcname="disk")


def unpack(name: str, place: Path) -> Path:
    """Unpack a golden directory into `place`, and return where it is."""
    shutil.unpack_archive(HERE / f"{name}.tar.xz", place, filter="data")
    return place / "disk"


if __name__ == "__main__":
    make()
