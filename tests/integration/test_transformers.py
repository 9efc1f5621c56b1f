"""A real model as the engine: what one process computed, another goes on from."""

import json
import subprocess
import sys

from tests.integration.conftest import StartDaemon
from tests.integration.llama_engine import BLOCK_TOKENS, PROMPT
from tierd.core.units import MiB


def _generate(address: str) -> tuple[int, list[int]]:
    command = [sys.executable, "-m", "tests.integration.llama_engine", address]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    told = json.loads(done.stdout)
    return told["found"], told["tokens"]


def test_others_continue_with_the_same_tokens(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(16 * MiB)
    found, computed = _generate(daemon.address)
    assert found == 0
    usable = (len(PROMPT) - 1) // BLOCK_TOKENS
    assert _generate(daemon.address) == (usable, computed)
    daemon.restart()
    assert _generate(daemon.address) == (usable, computed)
