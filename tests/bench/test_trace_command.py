"""`tierd trace generate` writes what was asked for, or says what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app
from tierd_bench.traces import read_trace


def generate(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["trace", "generate", *arguments])


def test_writes_a_trace_that_reads_back_and_says_how_it_came_out(tmp_path: Path) -> None:
    file = tmp_path / "made.jsonl.gz"
    result = generate(
        "--out", str(file), "--sessions", "5", "--shared-prompt", "128", "--seed", "3"
    )
    assert result.exit_code == 0, result.output
    trace = read_trace([file])
    assert len({request.session for request in trace.requests}) == 5
    assert f"{len(trace.requests)} requests of 5 sessions" in result.stdout
    assert f"{100 * trace.infinite_hit_rate:.1f} %" in result.stdout


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl.gz", tmp_path / "other.jsonl.gz"
    for file in (one, other):
        generate("--out", str(file), "--sessions", "3", "--seed", "7")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "{folder}/x.jsonl", "--preset", "mine"], "agent-demo"),
        (["--out", "{folder}/none/x.jsonl", "--sessions", "2"], "No such file"),
        (["--out", "{folder}/x.jsonl", "--turns", "2", "--total", "9000"], "turns"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_to_do_next(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = generate(*(argument.format(folder=tmp_path) for argument in arguments))
    assert result.exit_code in (1, 2), result.output
    assert said in result.stderr
    assert "next: " in result.stderr
    assert "Traceback" not in result.output
