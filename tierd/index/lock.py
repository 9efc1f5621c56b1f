"""One daemon owns a directory: a kernel lock that dies with it."""

import fcntl
import os
from pathlib import Path
from typing import Final

from tierd.core.errors import DirectoryInUse

LOCK_NAME: Final = "tierd.lock"


class DirectoryLock:
    """Hold `directory`, which is made if need be, until `release` or the end of the process.

    The file stays behind, and means nothing: the lock is the kernel's.

    Raises:
        DirectoryInUse: another process, or another lock of this one, holds it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            self.release()
            raise DirectoryInUse(str(directory), f"process {owner or 'unknown'}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory back. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
