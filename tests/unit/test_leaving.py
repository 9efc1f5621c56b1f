"""The last resort of a daemon that stops: it leaves, whatever its threads are waiting for."""

import subprocess
import sys
from typing import Final

_HANG: Final = """
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from tierd.service.daemon import _leave_within
ThreadPoolExecutor(1).submit(Event().wait)
_leave_within(float({deadline_s}))
"""


def test_a_daemon_leaves_though_a_disk_never_answers() -> None:
    """A thread that waited for a hung disk kept a daemon that was told to stop, for ever: Python
    waits for its threads before it ends."""
    script = _HANG.format(deadline_s=0.2)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert b"left without waiting" in ended.stderr
