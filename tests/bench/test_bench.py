"""Every row of the benchmark runs and says what it should. How fast it is, nobody asserts."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app
from tierd_bench.bench.catalogue import catalogue, chosen, usual
from tierd_bench.bench.disk_limits import disk_limit
from tierd_bench.bench.dual import better_alone, sum_of_both
from tierd_bench.bench.page import render_page
from tierd_bench.bench.rows import Bound, Budget, BudgetOf, Figures, Row
from tierd_bench.bench.run import BenchReport
from tierd_bench.bench.sizes import FULL, SMOKE
from tierd_bench.replay.machine import Machine

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
    "dual_equal",
    "dual_unequal",
    "dual_one_disk",
    "layers_first",
    "demand_p99_under_write_back",
    "simulator_chain_lru",
    "recovery_ready",
    "recovery_bytes",
    "recovery_match_512",
]


def test_every_row_runs(tmp_path: Path) -> None:
    report, lines = tmp_path / "report.json", tmp_path / "lines.jsonl"
    lines.write_text("{}\n")
    page = tmp_path / "page.html"
    files = ["--json", str(report), "--append", str(lines), "--html", str(page)]
    files += ["--directory", str(tmp_path)]
    result = CliRunner().invoke(app, ["bench", "--smoke", *files])
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("fetch_host_2MiB", "disk_write_2MiB"))
    written = json.loads(report.read_text())
    assert set(written) == {"machine", "commit", "date", "seed", "rows"}
    assert set(written["machine"]) >= {"cpu", "cores", "memory", "kernel", "python"}
    assert [row["name"] for row in written["rows"]] == NAMES
    for row in written["rows"]:
        assert row["limit"] > 0
        assert row["unit"] in {"GB/s", "ms", "CPU s/GB", "s", "B/block", "M refs/s"}
        assert row["limit_what"]
        assert row["runs"] == len(row["values"]) == len(row["limits"]) == 1
        assert all(len(values) == 1 for values in row["others"].values())
        assert f"<h2>{row['name']}</h2>" in page.read_text()
    _, *records = map(json.loads, lines.read_text().splitlines())
    assert [record["name"] for record in records] == NAMES
    assert all({"commit", "machine", "seed", "limit", "ratio"} <= set(one) for one in records)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"report.json", "lines.jsonl", "page.html"}


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


def test_rows_that_take_minutes_have_to_be_named() -> None:
    names = [measure.name for measure in usual(catalogue(FULL))]
    assert names == [name for name in NAMES if not name.startswith("recovery")]


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
        assert limit.bytes_per_s("read", 4) > 0
        assert limit.bytes_per_s("write", 4) > 0
    assert not list(tmp_path.iterdir())


def test_dual_path_is_measured_against_one_route_or_both() -> None:
    staged, direct = (3.0, 3.0, 3.5), (1.0, 4.0, 2.0)
    assert better_alone(staged, direct) == ("the better route alone: staged", staged)
    assert better_alone(direct, staged) == ("the better route alone: direct", staged)
    assert sum_of_both(staged, direct)[1] == (4.0, 7.0, 5.5)


def test_the_page_draws_rows_in_their_own_scale_with_the_budget_on_it() -> None:
    figures = Figures("<ms>", (2.0, 9.0, 1.0), (4.0, 5.0, 3.0), "a limit", others={"o": (1.0,)})
    budgets = [Budget(Bound.LEAST, 1.5), Budget(Bound.MOST, 6, BudgetOf.VALUE), None]
    rows = tuple(Row(f"row {at}", figures, budget) for at, budget in enumerate(budgets))
    machine = Machine("a & b", 2, 1, "linux", "3.11")
    page = render_page(BenchReport(machine, 0.5, "", "today", rows))
    assert "1 of 2 budgets are met" in page
    assert "a &amp; b" in page
    assert "at least 6 &lt;ms&gt;" in page
    assert "at most 6 &lt;ms&gt;" in page
    assert page.count('<line class="budget"') == 2
    widths = dict.fromkeys(("met", "missed", "free"), 0.0)
    for kind in widths:
        [width] = re.findall(rf'<rect class="{kind}".*?width="([\d.]+)"', page)
        widths[kind] = float(width)
    assert len(set(widths.values())) == 1
    budget_at = {float(x) for x in re.findall(r'class="budget" x1="([\d.]+)"', page)}
    assert {round(x / widths["met"], 1) for x in budget_at} == {3.0}  # 6 beside a median of 2
