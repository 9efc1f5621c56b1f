"""`tierd plan`: reports in every form, and says what to do about bad input."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.planning.traces import write_trace
from tests.simulate.oracle import random_chains
from tierd.cli.main import app


def _plan(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan", *words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    write_trace(path, random_chains(seed=3, requests=60))
    return str(path)


def test_reports_come_in_every_form(tmp_path: Path, trace: str) -> None:
    figures, page = tmp_path / "plan.json", tmp_path / "plan.html"
    sizes = ["--host", "16MiB", "--disk", "1GiB", "--hit-rate", "0.3", "--dwpd", "3"]
    files = ["--json", str(figures), "--html", str(page)]
    code, said, wrong = _plan("--model", "llama-3-8b", "--trace", trace, *sizes, *files)
    assert code == 0, wrong
    for title in ("Hit rate of the tiers given", "Time to first token", "What this rests on"):
        assert title in said
    report = json.loads(figures.read_text())
    assert report["computed"]["kv"]["token_bytes"] == 131072
    assert [one["tier"] for one in report["computed"]["break_even"]] == ["host", "disk"]
    simulated = report["simulated"]
    assert [one["hit_rate"] for one in simulated["needed"]] == [0.3]
    assert [one["tiers"] for one in simulated["ttft"]] == ["no cache", "host", "host and disk"]
    assert simulated["lifetime"]["years"] > 0
    assert 0 < simulated["optimum_share"] <= 1
    origins = {one["name"]: one["assumed"] for one in report["settings"]}
    assert origins["utilisation in prefill"]
    assert not origins["endurance"]
    body = page.read_text().split("<body>")[1]
    assert "simulated" in body
    assert "{{" not in body
    assert "https://cdn" not in body


def test_without_a_trace_there_is_the_model_and_the_machine(tmp_path: Path) -> None:
    figures, page = tmp_path / "plan.json", tmp_path / "plan.html"
    files = ["--json", str(figures), "--html", str(page)]
    code, said, wrong = _plan("--model", "deepseek-v3", "--kv-dtype", "fp8", *files)
    assert code == 0, wrong
    assert "34.31 KiB (35,136 B)" in said
    assert "Hit rate" not in said
    assert json.loads(figures.read_text())["simulated"] is None
    assert "Loading a prefix" in page.read_text()


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 10,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, said, wrong = _plan("--model", str(tmp_path / "config.json"))
    assert code == 0, wrong
    assert "512 B (512 B)" in said
    (tmp_path / "config.json").write_text(json.dumps(config | {"ssm_size": 3}))
    code, _, wrong = _plan("--model", str(tmp_path))
    assert code == 2
    assert "field 'ssm_size' (3) is not understood" in wrong


def test_a_model_given_by_hand() -> None:
    words = ["--bytes-per-token", "100KiB", "--active-params", "8e9", "--tp", "4"]
    code, said, wrong = _plan(*words)
    assert code == 0, wrong
    assert "100 KiB (102,400 B)" in said
    assert "attention's FLOPs are left out" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--model or --bytes-per-token"),
        (["--model", "llama-3-8b", "--bytes-per-token", "1KiB"], "--model or --bytes-per-token"),
        (["--model", "llama-9"], "no model is called 'llama-9'"),
        (["--model", "/nowhere/config.json"], "No such file"),
        (["--bytes-per-token", "100KiB"], "nothing says how long prefill takes"),
        (["--bytes-per-token", "lots", "--active-params", "1"], "--bytes-per-token is 'lots'"),
        (["--model", "llama-3-8b", "--active-params", "1"], "goes with --bytes-per-token"),
        (["--model", "llama-3-8b", "--kv-dtype", "fp3"], "--kv-dtype is 'fp3'"),
        (["--model", "llama-3-8b", "--tp", "3"], "8 KV heads do not go into 3 ranks"),
        (["--model", "llama-3-8b", "--block-tokens", "99999"], "block_bytes"),
        (["--model", "llama-3-8b", "--host", "big"], "--host is 'big'"),
        (["--model", "llama-3-8b", "--disk-bandwidth", "fast"], "--disk-bandwidth is 'fast'"),
        (["--model", "llama-3-8b", "--utilisation", "0"], "--utilisation is 0"),
        (["--model", "llama-3-8b", "--tflops", "inf"], "--tflops is inf"),
        (
            ["--model", "llama-3-8b", "--tflops", "9", "--prefill-tokens-per-s", "9"],
            "--prefill-tokens-per-s excludes",
        ),
        (["--model", "llama-3-8b", "--hit-rate", "90"], "--hit-rate is 90"),
        (["--model", "llama-3-8b", "--hit-rate", "0.9"], "--hit-rate says nothing without"),
        (["--model", "llama-3-8b", "--policy", "best"], "'best' is no policy"),
        (["--model", "llama-3-8b", "--dwpd", "1", "--endurance-tbw", "1"], "exclude each other"),
        (["--model", "llama-3-8b", "--trace", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--model", "llama-3-8b", "--json", "/nowhere/at/all.json"], "no such directory"),
    ],
)
def test_bad_input_ends_with_what_to_do_next(words: list[str], said: str) -> None:
    code, shown, wrong = _plan(*words)
    assert code == 2
    assert said in wrong
    assert wrong.splitlines()[-1].startswith("next: ")
    assert shown == ""


def test_a_trace_without_a_whole_block(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    write_trace(path, [[], []])
    code, _, wrong = _plan("--model", "llama-3-8b", "--trace", str(path))
    assert code == 2
    assert "no whole block" in wrong
