"""`tierd simulate` writes what it finds, or says what is wrong with what it was given."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app

DEMO = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"


def simulate(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments, "--jobs", "1"])


def test_writes_its_figures(tmp_path: Path) -> None:
    figures, rows = tmp_path / "figures.json", tmp_path / "rows.csv"
    result = simulate(
        str(DEMO), "--policy", "chain_lru,tierd_policies.fifo:Fifo", "--capacity", "10%,1GiB,99",
        "--json", str(figures), "--csv", str(rows),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    values = json.loads(figures.read_text())
    assert [(run["policy"], run["capacity_blocks"]) for run in values["runs"]] == [
        (policy, blocks)
        for policy in ("chain_lru", "tierd_policies.fifo:Fifo")
        for blocks in (54, 128, 99)
    ]
    assert values["runs"][0]["capacity_share"] == 0.1
    assert len(list(csv.DictReader(io.StringIO(rows.read_text())))) == 6 + 3 * 3
    assert "optimum" in result.stdout


def test_a_policy_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An installed command has no current folder among its paths: a policy that lay beside the
    # user's trace could not be imported.
    (tmp_path / "beside_the_trace.py").write_text(
        "from tierd_policies.fifo import Fifo\n\n\nclass Mine(Fifo):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    result = simulate(str(DEMO), "--policy", "beside_the_trace:Mine", "--capacity", "10%")
    monkeypatch.delitem(sys.modules, "beside_the_trace", raising=False)
    assert result.exit_code == 0, result.output


def test_several_files_are_one_trace() -> None:
    result = simulate(str(DEMO), str(DEMO), "--capacity", "50%", "--policy", "chain_lru")
    assert result.exit_code == 0, result.output
    assert "7,188 block references" in " ".join(result.stdout.split())


def test_a_curve_has_so_many_points(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    simulate(str(DEMO), "--points", "7", "--policy", "chain_lru", "--json", str(figures))
    rates = [run["hit_rate"] for run in json.loads(figures.read_text())["runs"]]
    assert len(rates) == 7
    assert rates == sorted(rates)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "none.jsonl"),
        ([str(DEMO), "--policy", "lur"], "chain_lru"),
        ([str(DEMO), "--policy", "no.such:Thing"], "no.such"),
        ([str(DEMO), "--capacity", "lots"], "64GiB"),
        ([str(DEMO), "--capacity", "10%,"], "--capacity"),
        ([str(DEMO), "--sample", "5GiB"], "10%"),
        ([str(DEMO), "--bytes-per-token", "x"], "128KiB"),
        ([str(DEMO), "--block-tokens", "4096"], "--block-tokens"),
        ([str(DEMO), "--json", "/none/such.json"], "create it"),
        ([str(DEMO), "--format", "csv"], "mooncake"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do_next(
    arguments: list[str], said: str
) -> None:
    result = simulate(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: ")
    assert "Traceback" not in result.output
