"""Every row of the benchmark runs and says what it should. How fast it is, nobody asserts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app
from tierd_bench.bench.catalogue import catalogue, chosen
from tierd_bench.bench.disk_limits import disk_limit
from tierd_bench.bench.rows import Bound, Budget, BudgetOf, Figures, Row
from tierd_bench.bench.sizes import FULL, SMOKE

NAMES = [
    "fetch_host_2MiB",
    "fetch_host_2MiB_x16",
    "fetch_host_2MiB_x1",
    "fetch_host_2MiB_cpu",
    "fetch_views_512",
    "publish_2MiB",
    "fetch_host_256KiB",
    "fetch_host_256KiB_x16",
    "fetch_host_256KiB_x1",
    "publish_256KiB",
    "match_512",
    "match_512_inside",
    "match_6250",
    "disk_read_2MiB",
    "disk_write_2MiB",
]


def test_every_row_runs(tmp_path: Path) -> None:
    report, lines = tmp_path / "report.json", tmp_path / "lines.jsonl"
    lines.write_text("{}\n")
    files = ["--json", str(report), "--append", str(lines), "--directory", str(tmp_path)]
    result = CliRunner().invoke(app, ["bench", "--smoke", *files])
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("fetch_host_2MiB", "disk_write_2MiB"))
    written = json.loads(report.read_text())
    assert set(written) == {"machine", "commit", "date", "seed", "rows"}
    assert set(written["machine"]) >= {"cpu", "cores", "memory", "kernel", "python"}
    assert [row["name"] for row in written["rows"]] == NAMES
    for row in written["rows"]:
        assert row["limit"] > 0
        assert row["unit"] in {"GB/s", "ms", "CPU s/GB"}
        assert row["limit_what"]
        assert row["runs"] == len(row["values"]) == len(row["limits"]) == 1
    _, *records = map(json.loads, lines.read_text().splitlines())
    assert [record["name"] for record in records] == NAMES
    assert all({"commit", "machine", "seed", "limit", "ratio"} <= set(one) for one in records)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "lines.jsonl"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("fetch_host_2MiB", ["fetch_host_2MiB"]),
        ("publish", ["publish_2MiB", "publish_256KiB"]),
        ("disk_", ["disk_read_2MiB", "disk_write_2MiB"]),
        ("nothing", []),
    ],
)
def test_rows_are_chosen_by_name_or_beginning(wanted: str, found: list[str]) -> None:
    assert [measure.name for measure in chosen(catalogue(FULL), wanted)] == found


def test_an_unknown_row_ends_with_what_there_is() -> None:
    result = CliRunner().invoke(app, ["bench", "--only", "fetch_hots"])
    assert result.exit_code == 2
    assert "match_6250" in result.stderr.splitlines()[-1]


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--directory", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("next: ")


@pytest.mark.parametrize(
    ("budget", "met"),
    [
        (Budget(Bound.LEAST, 0.5), True),
        (Budget(Bound.LEAST, 0.6), False),
        (Budget(Bound.MOST, 0.5), True),
        (Budget(Bound.MOST, 2, BudgetOf.VALUE), True),
        (Budget(Bound.MOST, 1.9, BudgetOf.VALUE), False),
        (None, None),
    ],
)
def test_a_row_is_the_median_beside_its_limit(budget: Budget | None, met: bool | None) -> None:
    row = Row("some", Figures("GB/s", (2.0, 9.0, 1.0), (4.0, 5.0, 3.0), "a limit"), budget)
    assert (row.value, row.limit, row.ratio, row.met) == (2.0, 4.0, 0.5, met)
    assert row.as_json()["met"] is met


def test_every_scene_has_room_for_its_rows() -> None:
    for sizes in (FULL, SMOKE):
        for measure in catalogue(sizes):
            settings = dict(setting.split("=") for setting in measure.scene.settings())
            region = int(settings["tiers.region_bytes"])
            assert region >= measure.scene.block_bytes
            assert measure.scene.host_bytes >= 3 * region


def test_without_fio_the_disk_is_measured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with disk_limit(tmp_path, 4096, 16 * 4096) as limit:
        assert "thread pool" in limit.what
        assert limit.bytes_per_s("read") > 0
        assert limit.bytes_per_s("write") > 0
    assert not list(tmp_path.iterdir())
