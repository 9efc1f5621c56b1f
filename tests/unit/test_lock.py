"""One process at a time owns a directory, and a dead one owns nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tierd.core.errors import DirectoryInUse
from tierd.index.lock import DirectoryLock

HOLD = """
import sys
from pathlib import Path
from tierd.index.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@contextmanager
def other_process_holding(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with other_process_holding(tmp_path) as process:
        with pytest.raises(DirectoryInUse) as caught:
            DirectoryLock(tmp_path)
        assert caught.value.owner == f"process {process.pid}"
        assert caught.value.directory == str(tmp_path)


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    with other_process_holding(tmp_path) as process:
        process.kill()
        process.wait()
        DirectoryLock(tmp_path).release()


def test_a_process_does_not_own_a_directory_twice(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "made")
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()};"):
        DirectoryLock(tmp_path / "made")
    lock.release()
    lock.release()
    DirectoryLock(tmp_path / "made").release()
