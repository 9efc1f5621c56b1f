"""Generated traces meet the figures they were asked for, and read back as they were made."""

from dataclasses import replace
from pathlib import Path

import pytest

from tierd_bench.traces import (
    PRESETS,
    Generated,
    TraceError,
    Workload,
    generate,
    read_trace,
    summarize,
)

DUALPATH = [name for name in PRESETS if name.startswith("dualpath")]
DEMO = PRESETS["agent-demo"]
DEMO_FILE = Path(__file__).parents[2] / "bench" / "traces" / "agent-demo.jsonl.gz"


def demo(seed: int = 3) -> Generated:
    return generate(DEMO.workload, DEMO.sessions, seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", DUALPATH)
def test_dualpath_figures_come_out_jointly(name: str, seed: int) -> None:
    workload = PRESETS[name].workload
    made = generate(workload, 100, seed)
    summary = summarize(made)
    assert summary.misses(workload) == []
    assert max(turn.prompt for turn in made.turns) <= workload.total_max
    assert len({turn.session for turn in made.turns}) == 100


@pytest.mark.parametrize("name", DUALPATH)
def test_dualpath_sessions_share_nothing_and_wait_for_nothing(name: str) -> None:
    made = generate(PRESETS[name].workload, 5, 0)
    owners: dict[int, str] = {}
    for turn in made.turns:
        assert turn.gap_ms == 0
        for block in made.blocks(turn):
            assert owners.setdefault(block, turn.session) == turn.session


def test_a_context_is_all_that_came_before_unless_it_was_compacted() -> None:
    lengths: dict[str, int] = {}
    compacted = []
    for turn in demo().turns:
        if turn.after == "compaction":
            assert turn.context == DEMO.workload.shared_prompt
            compacted.append(turn.session)
        else:
            assert turn.context == lengths.get(turn.session, 0)
        assert turn.append >= 1
        assert turn.output >= 1
        lengths[turn.session] = turn.prompt + turn.output
    assert len(compacted) == len(set(compacted)) == 8


def test_sessions_share_the_head_and_continue_their_own_prefix() -> None:
    made = demo()
    head = DEMO.workload.shared_prompt // made.block_tokens
    previous: dict[str, list[int]] = {}
    for turn in made.turns:
        blocks = list(made.blocks(turn))
        assert len(blocks) == turn.prompt // made.block_tokens
        assert blocks[:head] == list(range(head))
        before = previous.get(turn.session, [])
        kept = head if turn.after == "compaction" else len(before)
        assert blocks[:kept] == before[:kept] or not before
        if turn.after == "compaction":
            assert not set(blocks[head:]) & set(before)
        previous[turn.session] = blocks


def test_turns_stand_in_the_order_of_time_and_after_their_gaps() -> None:
    turns = demo().turns
    assert [turn.at_ms for turn in turns] == sorted(turn.at_ms for turn in turns)
    last: dict[str, int] = {}
    for turn in turns:
        assert turn.at_ms >= last.get(turn.session, 0) + turn.gap_ms
        last[turn.session] = turn.at_ms
    assert {turn.after for turn in turns} == {"start", "tool", "user", "compaction"}


def test_a_seed_gives_one_trace_and_one_file(tmp_path: Path) -> None:
    assert demo(5) == demo(5) != demo(6)
    for name in "ab":
        demo(5).write(tmp_path / f"{name}.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_written_trace_reads_back(ending: str, tmp_path: Path) -> None:
    made = demo()
    made.write(tmp_path / f"t.{ending}")
    read = read_trace([tmp_path / f"t.{ending}"])
    straight = made.trace()
    assert read.block_tokens == straight.block_tokens
    assert read.infinite_hit_rate == straight.infinite_hit_rate == summarize(made).hit_rate
    for got, wanted in zip(read.requests, straight.requests, strict=True):
        assert got.session == f"t/{wanted.session}"
        assert (got.arrival_s, got.gap_s, got.output_tokens, len(got.blocks)) == (
            wanted.arrival_s,
            wanted.gap_s,
            wanted.output_tokens,
            len(wanted.blocks),
        )


def test_equal_sessions_come_out_when_nothing_asks_for_spread() -> None:
    workload = Workload(10, 100, 50, 600, None, 1600)
    summary = summarize(generate(workload, 20, 0))
    assert summary.turns == 10
    assert summary.misses(workload) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"turns": 1}, "turns"),
        ({"total": 1e6, "total_max": 10**7}, "above turns x"),
        ({"total_max": 900}, "total_max"),
        ({"context": 100.0}, "context"),
        ({"output": 0.5}, "output below 1"),
        ({"shared_prompt": 1000}, "shared_prompt"),
    ],
)
def test_contradicting_means_are_refused(change: dict[str, float], told: str) -> None:
    workload = Workload(10, 100, 50, 600, 1200, 2000)
    with pytest.raises(TraceError, match=told):
        generate(replace(workload, **change), 5, 0)  # type: ignore[arg-type]


def test_the_projects_own_trace_is_as_its_label_says() -> None:
    trace = read_trace([DEMO_FILE])
    assert len({request.session for request in trace.requests}) == 40
    assert (len(trace.requests), trace.block_tokens) == (321, 64)
    assert (trace.references, trace.unique_blocks) == (3594, 545)
    assert len({request.blocks[0] for request in trace.requests}) == 1
    assert DEMO_FILE.stat().st_size < 300_000
