"""`tierd simulate --host ...` runs the store on a clock, or says what is wrong with its options."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app

DEMO = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"
SMALL = ("--policy", "chain_lru", "--capacity", "10%", "--jobs", "1", "--bytes-per-token", "1KiB")


def simulate(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", str(DEMO), "--requests", "60", *SMALL, *arguments])


def test_the_figures_of_every_policy_are_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    tiers = ("--host", "4MiB", "--disk", "16MiB", "--prefill-tokens-per-s", "8000")
    result = simulate(*tiers, "--policy", "chain_lru,s3_fifo", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "every figure here is simulated" in result.stdout
    figures = json.loads(file.read_text())
    assert [run["policy"] for run in figures["timed"]] == ["chain_lru", "s3_fifo"]
    for run in figures["timed"]:
        assert run["tokens_asked"] == sum(run["tokens_hit"].values()) + run["tokens_missed"]
        assert run["ttft_ms"]["p50"] < run["ttft_cold_ms"]["p50"]
        assert len(run["ttft_cdf"]) == 101
        assert run["ttft_cdf"] == sorted(run["ttft_cdf"])


def test_without_a_host_size_there_is_no_clock(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert simulate("--json", str(file)).exit_code == 0
    assert "timed" not in json.loads(file.read_text())


def test_a_model_says_how_long_prefill_takes_and_what_kv_weighs(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    sizes = ("--host", "2GiB", "--disk", "4GiB")
    assert simulate(*sizes, "--model", "llama-3-8b", "--json", str(file)).exit_code == 0
    figures = json.loads(file.read_text())
    [run] = figures["timed"]
    assert figures["trace"]["bytes_per_token"] == 128 * 1024
    # Two FLOPs a token for each of 7 billion weights, at half of 989 TFLOP/s, and attention.
    assert run["gpu_cold_s"] == pytest.approx(
        run["tokens_asked"] * 2 * 7e9 / (989e12 / 2), rel=0.15
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "much"), "--host"),
        (("--host", "64MiB", "--speed", "0"), "--speed"),
        (("--host", "64MiB", "--route", "scenic"), "--route"),
        (("--host", "64MiB", "--admission", "never"), "--admission"),
        (("--host", "64MiB", "--tflops", "100"), "--model"),
        (("--host", "64MiB", "--model", "gpt-17"), "gpt-17"),
        (("--host", "64MiB", "--model", "llama-3-8b", "--utilisation", "0"), "--utilisation"),
        (("--host", "64MiB", "--admission", "endurance"), "--write-bytes-per-day"),
        (("--disk", "64MiB"), "--host"),
        (("--host", "64MiB", "--disk-bandwidth", "fast"), "--disk-bandwidth"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], said: str) -> None:
    result = simulate(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
