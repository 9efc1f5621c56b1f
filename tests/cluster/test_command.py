"""`tierd simulate-cluster`: reports in every form, and says what to do about bad input."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app


def test_reports_come_in_every_form(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "csv", "html")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    size = ["--gpus", "1", "--shapes", "1P1D", "--agents", "6", "--trace", "32k"]
    named = ["table1", "equivalences", "range"]
    result = CliRunner().invoke(app, ["simulate-cluster", *named, *size, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(files["json"].read_text())
    assert report["simulated"] is True
    assert [study["name"] for study in report["studies"]] == named
    assert all(claim["holds"] for claim in report["studies"][0]["claims"])
    assert {row["study"] for row in csv.DictReader(files["csv"].read_text().splitlines())} == set(
        named
    )
    page = files["html"].read_text()
    assert "simulated" in page
    assert "{{" not in page.split("<body>")[1]
    assert "https://cdn" not in page.split("<body>")[1]


def test_one_configuration_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    chosen = ["--model", "qwen3-235b", "--systems", "layerwise,split", "--agents", "3"]
    shape = ["--prefill-nodes", "1", "--decode-nodes", "2", "--gpus", "1", "--trace", "32k"]
    result = CliRunner().invoke(
        app, ["simulate-cluster", "run", *chosen, *shape, "--json", str(path)]
    )
    assert result.exit_code == 0, result.output
    (study,) = json.loads(path.read_text())["studies"]
    assert [row["system"] for row in study["rows"]] == ["layerwise", "split"]
    assert {row["model"] for row in study["rows"]} == {"qwen3-235b"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ablatoin"], "no study is called 'ablatoin'"),
        (["--model", "gpt-9"], "no model is called 'gpt-9'"),
        (["--trace", "1k"], "no trace is called '1k'"),
        (["run", "--systems", "magic"], "no system is called 'magic'"),
        (["--shapes", "2x3"], "--shapes has '2x3'"),
        (["--prefill-nodes", "2"], "go together"),
        (["--json", "/nowhere/at/all.json"], "no such directory"),
    ],
)
def test_bad_input_ends_with_what_to_do_next(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["simulate-cluster", *words])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: ")
    assert result.stdout == ""
