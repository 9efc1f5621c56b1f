"""The measurement of times to first token, with engines that compute nothing."""

import json
from contextlib import ExitStack
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.bench.ttft_fakes import BLOCK_TOKENS, LOAD_S, TOKEN_S, TOKENS_MAX, fake_store
from tierd_bench.bench.stage import NotMeasured
from tierd_bench.ttft.__main__ import app
from tierd_bench.ttft.engines import Engine, EngineFailed
from tierd_bench.ttft.page import render_page
from tierd_bench.ttft.prompts import ANSWER_TOKENS, QUESTION_TOKENS, Limits, make_prompt, make_turns
from tierd_bench.ttft.report import TtftReport, cell, make_report
from tierd_bench.ttft.rounds import LOCAL, RECOMPUTE, Course, run_rounds
from tierd_bench.ttft.table import render_table

LIMITS = Limits(TOKENS_MAX, 1000, QUESTION_TOKENS)
DISK_RATE = 1e6
"""Bytes a second of a disk that reads 10 tokens a millisecond."""

COURSE = Course(
    prompts=[512, 4096],
    rounds=2,
    turns=3,
    turn_rounds=1,
    turn_first=512,
    turn_each=256,
    question=64,
    seed=7,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TtftReport:
    place = tmp_path_factory.mktemp("ttft")
    with ExitStack() as stack:
        stores = []
        for name, kind in (("vllm", "none"), ("tierd", "keeps"), ("other", "keeps")):
            stores.append(fake_store(name, place / name, kind))
            stack.enter_context(stores[-1].engine)
        samples = run_rounds(COURSE, stores, lambda: DISK_RATE, lambda _: None)
        return make_report(samples, "a-model", "fake 1", COURSE.seed)


def test_each_store_is_asked_once_a_round_and_place(report: TtftReport) -> None:
    prompts = [scene for scene in report.scenes if not scene.turn]
    ways = ["tierd host", "tierd disk", "tierd first", "other host", "other disk", "other first"]
    assert sorted(report.ways) == sorted([RECOMPUTE, LOCAL, *ways])
    for scene in prompts:
        assert {len(report.of(scene, way)) for way in report.ways} == {COURSE.rounds}


def test_what_is_reused_is_the_context(report: TtftReport) -> None:
    for scene in report.scenes[:2]:
        for way in report.ways:
            reused = 0 if way == RECOMPUTE or way.endswith("first") else scene.tokens - 64
            assert {sample.reused_tokens for sample in report.of(scene, way)} == {reused}, way


def test_a_way_is_compared_with_its_own_round(report: TtftReport) -> None:
    local_s = QUESTION_TOKENS * TOKEN_S
    for sample in report.of(report.scenes[0], "tierd disk"):
        assert sample.seconds == pytest.approx(local_s + LOAD_S)
        assert sample.local_seconds == pytest.approx(local_s)
        assert sample.recompute_seconds == pytest.approx(sample.scene.tokens * TOKEN_S)
        assert sample.same == "bits"
    # Computed as a whole it has other bits than computed in two pieces.
    assert {each.same for each in report.of(report.scenes[0], RECOMPUTE)} == {"tokens"}
    assert {each.same for each in report.of(report.scenes[0], "tierd first")} == {"bits"}


def test_turns_build_on_each_other(report: TtftReport) -> None:
    turns = [scene for scene in report.scenes if scene.turn]
    assert [scene.tokens for scene in turns] == [576, 832, 1088]
    reused = [report.of(scene, "tierd host")[0].reused_tokens for scene in turns]
    assert reused == [0, 512, 768]
    assert reused == [report.of(scene, LOCAL)[0].reused_tokens for scene in turns]
    assert [report.of(scene, RECOMPUTE)[0].reused_tokens for scene in turns] == [0, 0, 0]
    # The first turn is new to everybody: that it is computed is no failure.
    lines = {line["name"]: line for line in report.as_lines()}
    assert lines["ttft_turn_1_tierd_host_against_recompute"]["budget"] is None
    assert lines["ttft_turn_2_tierd_host_against_recompute"]["met"] is True


def test_rows_have_limits_and_budgets(report: TtftReport) -> None:
    lines = {line["name"]: line for line in report.as_lines()}
    host = lines["ttft_4k_tierd_host"]
    assert host["ratio"] == pytest.approx((64 * TOKEN_S + LOAD_S) / (64 * TOKEN_S), rel=1e-3)
    assert (host["budget"], host["met"]) == ("<= 1.15", False)
    assert lines["ttft_4k_tierd_disk"]["met"] is True
    assert lines["ttft_512_tierd_host"]["budget"] is None
    assert lines["ttft_512_tierd_host_against_recompute"]["met"] is True
    bound = lines["ttft_4k_tierd_disk_against_disk"]
    assert bound["limit"] == pytest.approx(64 + 2816 * 100 / DISK_RATE * 1e3)
    assert "ttft_4k_tierd_host_against_disk" not in lines
    assert host["seed"] == COURSE.seed
    assert {"machine", "commit", "date", "model", "engine"} <= host.keys()
    assert "2 identical" in host["note"]
    assert json.loads(json.dumps(host)) == host


def test_the_table_says_which_budget_is_missed(report: TtftReport) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_table(report))
    said = console.export_text()
    assert "ttft_4k_tierd_host: 1.31" in said
    assert said.count("missed") == 1
    assert "turn 3" in said


def test_the_page_needs_no_network(report: TtftReport) -> None:
    page = render_page(report)
    assert "By turn of a conversation" in page
    assert "tierd disk" in page
    assert 'src="http' not in page


def test_what_was_not_all_reused_is_marked(report: TtftReport) -> None:
    scene = report.scenes[0]
    assert cell(report, scene, "tierd host") == "84 1.31x"
    less = [
        replace(sample, reused_tokens=0) if sample.way == "tierd host" else sample
        for sample in report.samples
    ]
    assert cell(replace(report, samples=less), scene, "tierd host") == "84 1.31x*"
    assert cell(report, scene, "nowhere") == ""


def test_an_engine_that_reuses_what_it_was_to_compute_is_no_measure(tmp_path: Path) -> None:
    with ExitStack() as stack:
        store = fake_store("vllm", tmp_path / "log", "none")
        stack.enter_context(store.engine)
        # A context of less than a block can not be found again.
        short = Course([BLOCK_TOKENS - QUESTION_TOKENS - 1], 1, 0, 0, 0, 0, QUESTION_TOKENS, 0)
        with pytest.raises(NotMeasured, match="0 and then 0"):
            list(run_rounds(short, [store], lambda: DISK_RATE, lambda _: None))


def test_an_engine_that_ends_is_said_with_its_last_words(tmp_path: Path) -> None:
    store = fake_store("vllm", tmp_path / "log", "ends")
    with store.engine, pytest.raises(EngineFailed, match="the fake engine has ended"):
        store.engine.ask([1, 2, 3], 1)


def test_an_engine_that_is_killed_is_no_wrong_environment(tmp_path: Path) -> None:
    store = fake_store("vllm", tmp_path / "log", "killed")
    with store.engine, pytest.raises(EngineFailed, match="signal 9: if memory ran short"):
        store.engine.ask([1, 2, 3], 1)


def test_what_an_engine_refuses_is_said(tmp_path: Path) -> None:
    store = fake_store("vllm", tmp_path / "log")
    with store.engine, pytest.raises(EngineFailed, match="keeps what it was to forget"):
        store.engine.forget_connector_too()


def test_an_environment_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="make test-vllm"):
        Engine("vllm", tmp_path / "python", tmp_path / "log", 1)


def test_prompts_fit_and_differ_by_seed() -> None:
    prompt = make_prompt((1, 2), 512, LIMITS)
    assert len(prompt) == 512 + QUESTION_TOKENS
    assert prompt == make_prompt((1, 2), 512, LIMITS)
    assert prompt[:8] != make_prompt((1, 3), 512, LIMITS)[:8]
    longest = make_prompt((1, 2), 100_000, LIMITS)
    assert len(longest) + ANSWER_TOKENS <= TOKENS_MAX
    assert (len(longest) - QUESTION_TOKENS) % 256 == 0


def test_turns_that_do_not_fit_are_left_out() -> None:
    turns = make_turns((1,), 1024, 1024, 9, LIMITS)
    assert [len(turn) for turn in turns] == [1088, 2112]
    assert turns[1][:1088] == turns[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "nothing"], "there is no store"),
        (["--only", "lmcache"], "--lmcache-python"),
        (["--prompts", "4x"], "no number of tokens"),
        (["--model", "nowhere"], "config.json"),
    ],
)
def test_a_wrong_option_says_what_is_right(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = CliRunner().invoke(app, ["--model", str(tmp_path), *options])
    assert found.exit_code == 2
    assert said in " ".join(found.output.replace("│", " ").split())


def test_without_an_engine_it_says_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    nowhere = str(tmp_path / "python")
    found = CliRunner().invoke(app, ["--model", str(tmp_path), "--python", nowhere])
    assert found.exit_code == 1
    assert "make test-vllm" in " ".join(found.output.split())
