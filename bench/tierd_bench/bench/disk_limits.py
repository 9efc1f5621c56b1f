"""What a directory's disk can do: fio where it is installed, a bare O_DIRECT loop elsewhere."""

import json
import mmap
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Literal

Direction = Literal["read", "write"]

DEPTHS: Final = (4, 16)
"""Requests in flight; the one with the better median is the limit."""

_FIO_TIMEOUT_S: Final = 120
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class DiskLimit:
    """A file to read or write at random, one whole block at a time. Units: bytes."""

    path: Path
    block_bytes: int
    file_bytes: int

    @property
    def what(self) -> str:
        """Say how the limit is measured."""
        depths = " or ".join(map(str, DEPTHS))
        how = "fio, io_uring" if shutil.which("fio") else "a bare thread pool"
        return f"{how}, O_DIRECT, better of depth {depths}"

    def bytes_per_s(self, direction: Direction, depth: int) -> float:
        """Return the rate over one pass of the file."""
        measure = self._fio if shutil.which("fio") else self._bare
        return measure(direction, depth)

    def _fio(self, direction: Direction, depth: int) -> float:
        command = [
            "fio",
            "--name=limit",
            f"--filename={self.path}",
            f"--rw=rand{direction}",
            f"--bs={self.block_bytes}",
            f"--size={self.file_bytes}",
            f"--iodepth={depth}",
            "--ioengine=io_uring",
            "--direct=1",
            "--output-format=json",
        ]
        done = subprocess.run(command, capture_output=True, check=True, timeout=_FIO_TIMEOUT_S)
        # Warnings may come before the report.
        report = json.loads(done.stdout[done.stdout.index(b"{") :])
        return float(report["jobs"][0][direction]["bw_bytes"])

    def _bare(self, direction: Direction, depth: int) -> float:
        offsets = list(range(0, self.file_bytes, self.block_bytes))
        Random(_SEED).shuffle(offsets)
        flags = os.O_DIRECT | (os.O_RDONLY if direction == "read" else os.O_WRONLY)
        descriptor = os.open(self.path, flags)
        own = threading.local()

        def move(offset: int) -> int:
            if not hasattr(own, "buffer"):
                own.buffer = mmap.mmap(-1, self.block_bytes)
            if direction == "read":
                return os.preadv(descriptor, [own.buffer], offset)
            return os.pwritev(descriptor, [own.buffer], offset)

        try:
            with ThreadPoolExecutor(depth) as pool:
                start = time.perf_counter()
                moved = sum(pool.map(move, offsets))
                return moved / (time.perf_counter() - start)
        finally:
            os.close(descriptor)


@contextmanager
def disk_limit(directory: Path, block_bytes: int, file_bytes: int) -> Iterator[DiskLimit]:
    """Lay out a file in `directory` for as long as the limit is measured.

    Raises:
        OSError: the directory has no room, or no O_DIRECT.
    """
    path = directory / "limit"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o600)
    try:
        with mmap.mmap(-1, block_bytes) as block:
            block[:] = Random(_SEED).randbytes(block_bytes)
            for offset in range(0, file_bytes, block_bytes):
                os.pwrite(descriptor, block, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        yield DiskLimit(path, block_bytes, file_bytes)
    finally:
        path.unlink()
