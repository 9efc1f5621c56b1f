"""The example agent runs as its README says, here with tiny random weights.

They choose and write nonsense, which the agent has to get along with.
"""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EXAMPLES: Final = Path(__file__).parents[2] / "client" / "examples"
_TOOLS: Final[dict[str, Any]] = runpy.run_path(str(EXAMPLES / "agent_tools.py"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a tiny random Llama is, with a tokenizer of bytes."""
    directory = tmp_path_factory.mktemp("weights")
    bytes_only = Tokenizer(models.BPE())
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, special_tokens=["<|im_end|>"], initial_alphabet=alphabet
    )
    bytes_only.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|im_end|>")
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def _run(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLES / "agent.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=150)


def test_runs_with_a_daemon_of_its_own(weights: Path) -> None:
    done = _run("--embedded", "--weights", str(weights), "--ask", "What is 6 * 7?")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Plan +\d+ +0  -", done.stdout, re.MULTILINE), done.stdout
    told = re.search(r"([\d.]+) % of them reused", done.stdout)
    assert told
    assert float(told[1]) > 80
    assert "first steps of turns: TTFT" in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--daemon", "/nowhere/t.sock", "--embedded starts one"),
        ("--server", "http://127.0.0.1:9", "start the server"),
    ],
)
def test_says_what_to_do_where_nothing_answers(
    weights: Path, option: str, value: str, remedy: str
) -> None:
    done = _run(option, value, "--weights", str(weights))
    assert done.returncode == 1
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_says_what_to_do_with_weights_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    done = _run("--embedded", "--weights", str(tmp_path))
    assert done.returncode == 1
    assert f"remove {tmp_path}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("tool", "line", "result"),
    [
        ("calculator", "37 * 43", "1591"),
        ("calculator", "How much is (17 + 5) * -3?", "-66"),
        ("convert", "26.2 miles to kilometers", "26.2 mile = 42.16 kilometer"),
        ("convert", "How many inches are 2 meters?", "2 meter = 78.74 inch"),
        ("book", "who discovered Titan", "The moon Titan was discovered by Christiaan"),
    ],
)
def test_tools_work(tool: str, line: str, result: str) -> None:
    assert _TOOLS["TOOLS"][tool](line).startswith(result)


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        ("calculator", "two and two"),
        ("calculator", "42"),
        ("calculator", "1 / 0"),
        ("calculator", "9 ** 9 ** 9"),
        ("convert", "2 meters"),
        ("convert", "2 meters to kg"),
        ("book", "zzz"),
    ],
)
def test_tools_say_what_they_cannot_do(tool: str, line: str) -> None:
    with pytest.raises(_TOOLS["ToolFailed"]):
        _TOOLS["TOOLS"][tool](line)
