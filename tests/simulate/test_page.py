"""The page of a simulation shows every run, says what is simulated, and needs nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.simulate.oracle import ignore, made_references, random_chains, trace_of
from tierd.cli.main import app
from tierd.core.units import GiB
from tierd_bench.replay.report import Latency
from tierd_bench.simulate.capacities import Size
from tierd_bench.simulate.charts import styles_of
from tierd_bench.simulate.page import render_page
from tierd_bench.simulate.page_words import half_reused, names_of, telling
from tierd_bench.simulate.report import Report, facts_of
from tierd_bench.simulate.study import Study, simulate
from tierd_bench.simulate.timed import TimedRun

DEMO = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"
CHAINS = random_chains(4, requests=300, branches=5)
POLICIES = ("chain_lru", "lfu", "tierd_policies.fifo:Fifo")
SIZES = (Size(40, 0.2), Size(10, 0.05))
ODD = "</script><script>alert(1)</script> & co"
TIMES = Latency(20.0, 40.0, 80.0, 100.0, 300)
COLD = Latency(700.0, 900.0, 1500.0, 2000.0, 300)

TIMED = TimedRun(
    policy="chain_lru",
    admission="always",
    tier_bytes={"host": GiB, "disk": 4 * GiB},
    requests=300,
    tokens_asked=4800,
    tokens_hit={"device": 0, "host": 2000, "disk": 1000},
    tokens_missed=1800,
    hit_rate=0.625,
    hit_rate_by_tier={"device": 0.0, "host": 0.417, "disk": 0.208},
    tokens_saved=3000,
    bytes_by_route={"host": 2 * GiB, "disk-staged": GiB, "publish": 3 * GiB},
    moved_bytes={"disk to host": GiB},
    disk_bytes_written=3 * GiB + 4096,
    write_amplification=1.012,
    evictions_by_tier={"host": 5, "disk": 2},
    blocks_published=100,
    blocks_unpublished=0,
    fetches_cut={},
    fetch_ms=TIMES,
    ttft_ms=TIMES,
    ttft_cold_ms=COLD,
    ttft_cdf=(0.0, 20.0, 100.0),
    ttft_cold_cdf=(300.0, 700.0, 2000.0),
    gpu_s=10.0,
    gpu_cold_s=40.0,
    gpu_saved_s=30.0,
    seconds=60.0,
    seconds_cold=90.0,
)


def simulated(policies: tuple[str, ...] = POLICIES, **more: Any) -> Report:
    trace, references = trace_of(CHAINS), made_references(CHAINS)
    facts = facts_of(trace, references, 1024, 1, 0)
    study = Study(policies, more.pop("capacities", SIZES), **more)
    return replace(simulate(references, facts, study, ignore), trace=replace(facts, name=ODD))


@pytest.fixture(scope="module")
def report() -> Report:
    return simulated()


class Page(HTMLParser):
    """What a browser would make of a page: its text, its tables, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]
        # What says what kind of figures they are belongs to its title.
        self._within = tag if tag != "span" else self._within
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.titles.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        data = data.replace("\u00a0", " ")
        if self._within == "script":
            self.scripts[-1] += data
            return
        self.text += data
        if self._within in ("td", "th"):
            self.rows[-1][-1] += data
        if self._within == "h2":
            self.titles[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within if tag == "span" else ""

    @property
    def figures(self) -> list[dict[str, Any]]:
        match = re.search(r"^const figures = (.*);$", self.scripts[-1], re.MULTILINE)
        assert match is not None
        figures: list[dict[str, Any]] = json.loads(match[1])
        return figures


def titled(page: Page, words: str) -> dict[str, Any]:
    """Return the one figure whose title has `words`; charts come before tables."""
    [place] = [at for at, title in enumerate(page.titles) if words in title]
    return page.figures[place]


def lines(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in figure["data"]}


def test_every_run_is_in_the_charts_and_in_a_table(report: Report) -> None:
    page = Page(render_page(report))
    drawn = lines(titled(page, "the optimum is"))
    for run in report.runs:
        line = drawn[run.policy]
        at = line["x"].index(run.capacity_bytes)
        assert line["y"][at] == pytest.approx(100 * run.hit_rate)
        assert line["x"] == sorted(line["x"])
        cells = [run.policy, f"{100 * run.capacity_share:.3g} %"]
        [row] = [row for row in page.rows if row[:2] == cells]
        assert row[3] == f"{100 * run.hit_rate:.1f} %"


def test_the_bounds_are_drawn_over_the_policies(report: Report) -> None:
    drawn = lines(titled(Page(render_page(report)), "the optimum is"))
    optimum = [100 * point.belady for point in report.bounds]
    assert drawn["optimum (Belady)"]["y"] == pytest.approx(optimum[::-1])
    assert set(drawn["infinite cache"]["y"]) == {100 * report.infinite_hit_rate}
    for line in drawn.values():
        assert max(line["y"]) <= 100 * report.infinite_hit_rate + 1e-9


def test_every_reference_is_in_the_histogram(report: Report) -> None:
    before, first = titled(Page(render_page(report)), "first uses")["data"]
    assert sum(before["y"]) + sum(first["y"]) == pytest.approx(100)
    assert first["y"] == pytest.approx([100 * (1 - report.infinite_hit_rate)])


def test_what_is_saved_ends_with_what_the_run_saved(report: Report) -> None:
    drawn = lines(titled(Page(render_page(report)), "prompt tokens"))
    point = telling(report)
    saved = {
        run.policy: run.tokens_saved
        for run in report.runs
        if run.capacity_blocks == point.capacity_blocks
    }
    assert {name: line["y"][-1] for name, line in drawn.items()} == saved


def test_needs_no_network_and_escapes_names(report: Report) -> None:
    html = render_page(report, [TIMED])
    page = Page(html)
    assert page.loads == []
    assert page.tags.count("script") == 2
    assert not {"link", "img", "iframe", "meta http-equiv"} & set(page.tags)
    assert f"Simulation of {ODD}" in page.text
    assert "{{" not in page.text
    assert "alert(1)" not in "".join(page.scripts)
    assert not re.search(r"@import|url\(", html.split("</style>")[0])


def test_figures_say_that_they_are_simulated(report: Report) -> None:
    page = Page(render_page(report, [TIMED]))
    kinds = ("simulated", "computed from the trace")
    for title in page.titles[:-1]:
        assert any(kind in title for kind in kinds), title
    assert page.titles[-1] == "Trace"


def test_without_timed_runs_it_says_how_to_get_them(report: Report) -> None:
    page = Page(render_page(report))
    assert len(page.figures) == 4
    assert "--host" in page.text
    assert not any("first token" in title for title in page.titles)


def test_the_first_token_comes_with_and_without_the_cache(report: Report) -> None:
    page = Page(render_page(report, [TIMED]))
    drawn = lines(titled(page, "20 ms with the cache, 700 ms without"))
    # A logarithmic axis cannot show the request that took no time.
    assert drawn["chain_lru"]["x"] == [0.02, 0.1]
    assert drawn["chain_lru"]["y"] == [50.0, 100.0]
    assert drawn["no cache"]["x"] == [0.3, 0.7, 2.0]
    assert "--host" not in page.text


def test_without_prefill_there_is_no_first_token(report: Report) -> None:
    none = replace(TIMED, ttft_cold_ms=Latency(0.0, 0.0, 0.0, 0.0, 300))
    page = Page(render_page(report, [none]))
    assert not any("first token" in title for title in page.titles)
    assert "--prefill-tokens-per-s" in page.text
    assert titled(page, "written to disk")


def test_without_a_disk_nothing_is_written(report: Report) -> None:
    page = Page(render_page(report, [replace(TIMED, disk_bytes_written=0)]))
    assert len(page.figures) == 5
    assert "without --disk there is none" in page.text


def test_timed_runs_are_told_apart_by_what_differs(report: Report) -> None:
    second = replace(TIMED, admission="second_touch", disk_bytes_written=GiB, hit_rate=0.6)
    page = Page(render_page(report, [TIMED, second]))
    figure = titled(page, "chain_lru, always: 62.5 % hit")
    points = {line["name"]: (line["x"], line["y"], line["marker"]) for line in figure["data"]}
    assert points["chain_lru, second_touch"][:2] == ([GiB / 1e9], [60.0])
    looks = [json.dumps(marker) for _, _, marker in points.values()]
    assert len(set(looks)) == 2
    for name in points:
        assert len([row for row in page.rows if row[0] == name]) == 2


def test_a_sample_shows_its_error_and_leaves_out_what_it_cannot_know() -> None:
    report = simulated(("chain_lru", "lfu"), sample_ratio=0.5)
    page = Page(render_page(report))
    drawn = lines(titled(page, "the optimum is"))
    errors = [100 * (run.error or 0) for run in report.runs if run.policy == "lfu"]
    assert drawn["lfu"]["error_y"]["visible"]
    assert drawn["lfu"]["error_y"]["array"] == pytest.approx(errors[::-1])
    bounds = [point.belady for point in report.bounds]
    of_optimum = [error / bound for error, bound in zip(errors, bounds, strict=True)]
    drawn = lines(titled(page, "of the optimum"))
    assert drawn["lfu"]["error_y"]["array"] == pytest.approx(of_optimum[::-1])
    assert "hits about" in page.text or "hit about" in page.text
    assert not any("saves" in title for title in page.titles)
    assert "unknown" in page.text


def test_one_policy_at_one_capacity_and_nothing_used_twice_make_a_page() -> None:
    chains = [[1, 2], [3], [4, 5, 6]]
    trace, references = trace_of(chains), made_references(chains)
    study = Study(("chain_lru",), (Size(3, 0.5),))
    report = simulate(references, facts_of(trace, references, 1024, 1, 0), study, ignore)
    page = Page(render_page(report))
    assert "100.0 % of all references are first uses" in page.text
    assert half_reused(report) == 0


def test_capacities_that_round_to_one_size_have_a_row_each() -> None:
    report = simulated(("chain_lru", "lfu"), capacities=(Size(10, 0.051), Size(10, 0.05)))
    page = Page(render_page(report))
    heads, *rows = [row for row in page.rows if len(row) == 8]
    assert heads[-2:] == ["chain_lru", "lfu"]
    assert [row[0] for row in rows] == ["5.1 %", "5 %"]


def test_looks_differ_in_more_than_colour() -> None:
    names = [str(number) for number in range(18)]
    looks = styles_of(names)
    assert len(set(looks.values())) == len(names)
    assert len({look.colour for look in list(looks.values())[:6]}) == 6
    assert len({look.symbol for look in list(looks.values())[:6]}) == 6


@pytest.mark.parametrize(
    ("names", "said"),
    [("a", "a"), ("ab", "a and b"), ("abc", "a, b and c"), ("abcd", "4 policies")],
)
def test_names_read_as_a_sentence(names: str, said: str) -> None:
    assert names_of(names) == said


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    arguments = [str(DEMO), "--policy", "chain_lru,arc", "--capacity", "10%,50%", "--jobs", "1"]
    result = CliRunner().invoke(app, ["simulate", *arguments, "--html", str(file)])
    assert result.exit_code == 0, result.output
    page = Page(file.read_text())
    assert f"Simulation of {DEMO.name}" in page.text
    assert {"chain_lru", "arc"} <= lines(titled(page, "the optimum is")).keys()


def test_a_page_that_cannot_be_written_is_refused_before_the_work() -> None:
    result = CliRunner().invoke(app, ["simulate", str(DEMO), "--html", "/none/such.html"])
    assert result.exit_code == 2
    assert "create it first" in result.stderr
