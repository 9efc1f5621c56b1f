"""The README's examples do what the README says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines import tiny_models
from tests.integration.conftest import StartDaemon
from tierd.core.units import MiB

README = Path(__file__).parents[2] / "README.md"


def _run_example(address: str) -> str:
    example, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
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


def test_a_model_of_transformers_reuses_its_prompt(
    start_daemon: StartDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start_daemon()
    _, example, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = example.replace("connect()", f"connect({daemon.address!r})")
    assert code != example
    ids = torch.randint(3, 100, (1, 70), generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {
        "model": tiny_models.llama(),
        "tokenizer": lambda prompt, return_tensors: {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
        },
        "prompt": "anything",
    }
    exec(code, dict(given))
    exec(code, dict(given))
    first, second = capsys.readouterr().out.splitlines()
    assert "reused=0" in first
    assert "reused=64, by_tier={'host': 64}" in second
