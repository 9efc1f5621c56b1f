"""The measurement of times to first token, with engines that compute nothing."""

import json
from contextlib import ExitStack
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.bench.ttft_fakes import (
    BLOCK_TOKENS,
    LOAD_S,
    TOKEN_S,
    TOKENS_MAX,
    fake_engine,
    fake_store,
)
from tierd_bench.bench.stage import NotMeasured
from tierd_bench.ttft.__main__ import app
from tierd_bench.ttft.engines import EngineFailed, transformers_command, vllm_command
from tierd_bench.ttft.page import render_page
from tierd_bench.ttft.prompts import ANSWER_TOKENS, QUESTION_TOKENS, Limits, make_prompt, make_turns
from tierd_bench.ttft.report import LESS_MEANS, TtftReport, cell, make_report
from tierd_bench.ttft.rounds import LOCAL, RECOMPUTE, Sample, Workload, run_rounds
from tierd_bench.ttft.stores import Group
from tierd_bench.ttft.table import render_table

LIMITS = Limits(TOKENS_MAX, 1000, QUESTION_TOKENS)
DISK_RATE = 1e6
"""Bytes a second of a disk that reads 10 tokens a millisecond."""

WORKLOAD = Workload(
    prompts=[512, 4096],
    rounds=2,
    turns=3,
    turn_rounds=1,
    turn_first=512,
    turn_each=256,
    question=64,
    seed=7,
)


def samples_of(workload: Workload, logs: Path, *stores: str, alone: str = "none") -> list[Sample]:
    """Return what a workload gives, with fake engines."""
    with ExitStack() as stack:
        engine, facts = fake_engine("alone", logs / "alone", alone)
        stack.enter_context(engine)
        group = Group(engine, facts, [fake_store(name, logs / name) for name in stores])
        for store in group.stores:
            stack.enter_context(store.engine)
        return list(run_rounds(workload, group, lambda: DISK_RATE, lambda _: None))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TtftReport:
    samples = samples_of(WORKLOAD, tmp_path_factory.mktemp("ttft"), "tierd", "other")
    return make_report(samples, "a-model", "vLLM fake", WORKLOAD.seed)


def said_of(report: TtftReport) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_table(report))
    return console.export_text()


def test_each_store_is_asked_once_a_round_and_tier(report: TtftReport) -> None:
    stores = ["tierd host", "tierd disk", "tierd first", "other host", "other disk", "other first"]
    assert sorted(report.sources) == sorted([RECOMPUTE, LOCAL, *stores])
    for case in report.prompts:
        assert {len(report.of(case, source)) for source in report.sources} == {WORKLOAD.rounds}


def test_what_is_reused_is_the_context(report: TtftReport) -> None:
    for case in report.prompts:
        for source in report.sources:
            reused = 0 if source == RECOMPUTE or source.endswith("first") else case.tokens - 64
            assert {sample.reused_tokens for sample in report.of(case, source)} == {reused}, source


def test_a_source_is_compared_with_its_own_round(report: TtftReport) -> None:
    local_s = QUESTION_TOKENS * TOKEN_S
    case = report.prompts[0]
    for sample in report.of(case, "tierd disk"):
        assert sample.seconds == pytest.approx(local_s + LOAD_S)
        assert sample.local_seconds == pytest.approx(local_s)
        assert sample.recompute_seconds == pytest.approx(case.tokens * TOKEN_S)
        assert sample.same == "bits"
    # Computed as a whole it has other bits than computed in two pieces.
    assert {each.same for each in report.of(case, RECOMPUTE)} == {"tokens"}
    assert {each.same for each in report.of(case, "tierd first")} == {"bits"}


def test_turns_build_on_each_other_in_every_tier(report: TtftReport) -> None:
    assert [case.tokens for case in report.turns] == [576, 832, 1088]
    new, *later = report.turns
    # The first turn is new to all, whatever the tier.
    assert [sample.reused_tokens for sample in report.of(new, "tierd first")] == [0, 0]
    assert not report.of(new, "tierd disk")
    for source in ("tierd host", "tierd disk", "other disk"):
        assert [len(report.of(case, source)) for case in later] == [1, 1]
        assert [report.of(case, source)[0].reused_tokens for case in later] == [512, 768]
    for case, reused in zip(report.turns, [0, 512, 768], strict=True):
        assert [each.reused_tokens for each in report.of(case, LOCAL)] == [reused, reused]
        assert [each.reused_tokens for each in report.of(case, RECOMPUTE)] == [0, 0]
    lines = {line["name"]: line for line in report.as_lines()}
    assert lines["ttft_vllm_turn_1_tierd_first_against_recompute"]["budget"] is None
    assert lines["ttft_vllm_turn_2_tierd_disk_against_recompute"]["met"] is True


def test_rows_have_limits_and_budgets(report: TtftReport) -> None:
    lines = {line["name"]: line for line in report.as_lines()}
    host = lines["ttft_vllm_4k_tierd_host"]
    assert host["ratio"] == pytest.approx((64 * TOKEN_S + LOAD_S) / (64 * TOKEN_S), rel=1e-3)
    assert (host["budget"], host["met"]) == ("<= 1.15", False)
    assert lines["ttft_vllm_4k_tierd_disk"]["met"] is True
    assert lines["ttft_vllm_512_tierd_host"]["budget"] is None
    assert lines["ttft_vllm_512_tierd_host_against_recompute"]["met"] is True
    bound = lines["ttft_vllm_4k_tierd_disk_against_disk"]
    assert bound["limit"] == pytest.approx(64 + 2816 * 100 / DISK_RATE * 1e3)
    assert "ttft_vllm_4k_tierd_host_against_disk" not in lines
    assert host["seed"] == WORKLOAD.seed
    assert {"machine", "commit", "date", "model", "engine"} <= host.keys()
    assert "2 identical" in host["note"]
    assert json.loads(json.dumps(host)) == host


def test_the_table_says_which_budget_is_missed(report: TtftReport) -> None:
    said = said_of(report)
    assert "ttft_vllm_4k_tierd_host: 1.31" in said
    assert said.count("missed") == 1
    assert "turn 3" in said


def test_only_vllm_has_goals_against_its_local_hit(report: TtftReport) -> None:
    other = replace(report, engine="transformers fake")
    lines = {line["name"]: line for line in other.as_lines()}
    assert lines["ttft_transformers_4k_tierd_host"]["budget"] is None
    assert lines["ttft_transformers_4k_tierd_host_against_recompute"]["met"] is True


def test_the_page_has_a_part_an_engine_and_needs_no_network(report: TtftReport) -> None:
    page = render_page([report, replace(report, engine="transformers fake")])
    for engine in ("vLLM fake", "transformers fake"):
        assert f"{engine}, by turn of a conversation" in page
        assert f"{engine}: prompts" in page
    assert "tierd disk" in page
    assert 'src="http' not in page


def test_what_was_not_all_reused_is_marked(report: TtftReport) -> None:
    case = report.prompts[0]
    assert cell(report, case, "tierd host") == "84 1.31x"
    samples = [
        replace(sample, reused_tokens=0) if sample.source == "tierd host" else sample
        for sample in report.samples
    ]
    less = replace(report, samples=samples)
    assert cell(less, case, "tierd host") == "84 1.31x*"
    assert cell(report, case, "nowhere") == ""
    # The mark is explained where there is one.
    assert LESS_MEANS in said_of(less)
    assert LESS_MEANS in render_page([less])
    assert LESS_MEANS not in said_of(report)
    assert LESS_MEANS not in render_page([report])


def test_a_prompt_of_less_than_a_block_is_computed_by_all(tmp_path: Path) -> None:
    short = replace(WORKLOAD, prompts=[BLOCK_TOKENS - QUESTION_TOKENS], rounds=1, turns=0)
    samples = samples_of(short, tmp_path, "tierd")
    assert {sample.reused_tokens for sample in samples} == {0}
    report = make_report(samples, "a-model", "vLLM fake", 0)
    # So it has no budget, and nothing was reused less than by a local hit.
    assert [row.name for row in report.rows() if row.budget is not None] == []
    assert "*" not in said_of(report)


def test_an_engine_that_computes_what_it_was_to_reuse_is_no_measure(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="nothing, then 512 tokens, but reused 0 and then 0"):
        samples_of(WORKLOAD, tmp_path, alone="computes")


def test_an_engine_that_ends_is_said_with_its_last_words(tmp_path: Path) -> None:
    engine, _ = fake_engine("vllm", tmp_path / "log", "ends")
    with engine, pytest.raises(EngineFailed, match="the fake engine has ended"):
        engine.ask([1, 2, 3], 1)


def test_an_engine_that_is_killed_is_no_wrong_environment(tmp_path: Path) -> None:
    engine, _ = fake_engine("vllm", tmp_path / "log", "killed")
    with engine, pytest.raises(EngineFailed, match="signal 9: if memory ran short"):
        engine.ask([1, 2, 3], 1)


def test_what_an_engine_refuses_is_said(tmp_path: Path) -> None:
    engine, _ = fake_engine("vllm", tmp_path / "log")
    with engine, pytest.raises(EngineFailed, match="keeps what it was to forget"):
        engine.forget_connector_too()


def test_an_environment_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="make test-vllm"):
        vllm_command(tmp_path / "python", 1)
    with pytest.raises(EngineFailed, match="make test-vllm"):
        transformers_command(tmp_path / "python")


def test_prompts_fit_and_differ_by_seed() -> None:
    prompt = make_prompt((1, 2), 512, LIMITS)
    assert len(prompt) == 512 + QUESTION_TOKENS
    assert prompt == make_prompt((1, 2), 512, LIMITS)
    assert prompt[:8] != make_prompt((1, 3), 512, LIMITS)[:8]
    # Also one of less than the unit of those that are cut short.
    least = Limits(128 + QUESTION_TOKENS + ANSWER_TOKENS, 1000, QUESTION_TOKENS)
    assert len(make_prompt((1, 2), 128, least)) == 128 + QUESTION_TOKENS
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
        (["--only", "tierd", "--without", "tierd"], "no store is left"),
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
