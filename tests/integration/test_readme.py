"""The README's example does what the README says."""

import re
import subprocess
import sys
from pathlib import Path

from tests.integration.conftest import StartDaemon
from tierd.core.units import MiB

README = Path(__file__).parents[2] / "README.md"


def _run_example(address: str) -> str:
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = example.replace("/tmp/tierd.sock", address)
    assert code != example
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_second_turn_hits(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    told = _run_example(daemon.address)
    assert "12 of 18 blocks, from {'host': 12}" in told
    daemon.restart()
    # The first fetch of the second run brought twelve of them back from disk.
    assert "18 of 18 blocks, from {'host': 12, 'disk': 6}" in _run_example(daemon.address)
