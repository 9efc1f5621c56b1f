"""Every reader turns its format into the one shape, and its ids name prefixes."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierd_bench.traces import FORMAT_NAMES, Trace, TraceError, TraceRequest, read_trace

SYSTEM = {"role": "system", "content": "You fix one bug at a time. " * 20}
TASK = {"role": "user", "content": "The clock runs backwards in winter. " * 12}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "function": {"name": "bash", "arguments": '{"cmd": "ls"}'}}],
}
RESULT = {"role": "tool", "content": "clock.py  test_clock.py " * 30, "message_type": "observation"}
ANSWER = {"role": "assistant", "content": "Fixed: the offset had the wrong sign."}
CONVERSATION = [SYSTEM, TASK, CALL, RESULT, ANSWER]


def json_lines(records: Sequence[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def mooncake_lines() -> bytes:
    rows = [(0, [0, 1, 2]), (1500, [0, 1, 3, 4]), (1500, [0, 5])]
    return json_lines(
        [
            {"timestamp": at, "input_length": 512 * len(ids), "output_length": 7, "hash_ids": ids}
            for at, ids in rows
        ]
    )


def claude_call(t: float, ids: list[int], **more: object) -> dict[str, object]:
    return {"t": t, "type": "n", "in": 64 * len(ids) + 9, "out": 5, "hash_ids": ids, **more}


def claude_session(name: str) -> bytes:
    helper = {
        "type": "subagent",
        "agent_id": "agent_001",
        "t": 10.0,
        "requests": [claude_call(0.0, [1, 9]), claude_call(2.5, [1, 9, 10], think_time=0.5)],
    }
    calls = [
        claude_call(0.0, [1, 2], api_time=3.0),
        claude_call(9.0, [1, 2, 3], api_time=1.0, think_time=4.0),
        helper,
        claude_call(11.0, [1, 2, 3, 4]),
    ]
    return json.dumps(
        {"id": name, "block_size": 64, "hash_id_scope": "local", "requests": calls}
    ).encode()


def tau_trajectories() -> bytes:
    return json.dumps([{"task_id": 3, "trial": 1, "traj": CONVERSATION}], indent=2).encode()


def swe_trajectory(**more: object) -> bytes:
    steps = [{"action": "ls", "response": "Let us look."}]
    return json.dumps({"trajectory": steps, "history": CONVERSATION, **more}).encode()


def lmcache_calls() -> bytes:
    prompt = "user: the clock runs backwards in winter. " * 20
    calls = [(5_000_000, prompt * 2, "b"), (3_000_000, prompt, "a")]
    return json_lines(
        [
            {"input": text, "output": "ok", "session_id": session, "timestamp": at}
            for at, text, session in calls
        ]
    )


def message_calls() -> bytes:
    return json_lines(
        [
            {"session": "s", "timestamp": 100.0, "messages": CONVERSATION[:2], "output": "Hm."},
            {"session": "s", "timestamp": 101.5, "messages": CONVERSATION, "output_tokens": 12},
        ]
    )


EXAMPLES = {
    "mooncake": ("calls.jsonl", mooncake_lines()),
    "claude-code": ("session.json", claude_session("one")),
    "tau-bench": ("runs.json", tau_trajectories()),
    "swe-agent": ("run.traj", swe_trajectory()),
    "lmcache": ("calls.jsonl", lmcache_calls()),
    "messages": ("calls.jsonl", message_calls()),
}


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def assert_ids_name_prefixes(trace: Trace) -> None:
    """A block's id has one predecessor wherever it occurs: equal id, equal prefix."""
    before: dict[int, int | None] = {}
    for request in trace.requests:
        previous = None
        for block in request.blocks:
            assert before.setdefault(block, previous) == previous
            previous = block


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_format_is_recognised_and_its_ids_name_prefixes(name: str, tmp_path: Path) -> None:
    file_name, content = EXAMPLES[name]
    path = written(tmp_path, file_name, content)
    trace = read_trace([path])
    assert trace == read_trace([path], format=name)
    assert len(trace.requests) >= 2
    assert trace.references > 0
    assert_ids_name_prefixes(trace)


def test_mooncake_counts_prefix_hits_only(tmp_path: Path) -> None:
    rows = [[0, 1, 2], [0, 7, 8], [0, 1, 2]]
    lines = [
        {"timestamp": 0, "input_length": 1500, "output_length": 1, "hash_ids": ids} for ids in rows
    ]
    trace = read_trace([written(tmp_path, "t.jsonl", json_lines(lines))])
    assert (trace.block_tokens, trace.references, trace.unique_blocks) == (512, 9, 5)
    assert trace.infinite_hit_rate == pytest.approx(4 / 9)
    assert len({request.session for request in trace.requests}) == 3


def test_mooncake_extensions_give_sessions_gaps_and_block_size(tmp_path: Path) -> None:
    line = {"input_length": 200, "output_length": 1, "session": "a", "block_size": 64}
    lines = [
        {**line, "timestamp": 7_000, "hash_ids": [0, 1, 2]},
        {**line, "timestamp": 9_500, "hash_ids": [0, 1, 3], "gap_ms": 250},
    ]
    trace = read_trace([written(tmp_path, "t.jsonl", json_lines(lines))])
    assert trace.block_tokens == 64
    assert [request.session for request in trace.requests] == ["t/a", "t/a"]
    assert [request.arrival_s for request in trace.requests] == [0.0, 2.5]
    assert [request.gap_s for request in trace.requests] == [0.0, 0.25]


def test_sub_agents_are_sessions_beside_their_parent_and_share_its_ids(tmp_path: Path) -> None:
    trace = read_trace([written(tmp_path, "one.json", claude_session("one"))])
    assert [request.session for request in trace.requests] == [
        "one", "one", "one::agent_001", "one", "one::agent_001",
    ]  # fmt: skip
    # Recorded think time first, else what lies between the calls.
    assert [request.gap_s for request in trace.requests] == [0.0, 4.0, 0.0, 1.0, 0.5]
    assert len({request.blocks[0] for request in trace.requests}) == 1
    assert all(request.arrival_s is None for request in trace.requests)


def test_local_ids_of_two_files_never_meet_and_reading_again_gives_the_same(tmp_path: Path) -> None:
    for name in "one", "two":
        written(tmp_path, f"{name}.json", claude_session(name))
    both = read_trace([tmp_path])
    alone = read_trace([tmp_path / "two.json"])
    assert both.unique_blocks == 2 * alone.unique_blocks
    assert [list(request.blocks) for request in both.requests[5:]] == [
        list(request.blocks) for request in alone.requests
    ]


def test_text_prompts_grow_by_whole_blocks_from_one_prefix(tmp_path: Path) -> None:
    trace = read_trace([written(tmp_path, "runs.json", tau_trajectories())])
    first, second = trace.requests
    assert first.session == second.session
    assert list(second.blocks[: len(first.blocks)]) == list(first.blocks)
    assert len(second.blocks) > len(first.blocks) > 1
    assert first.output_tokens > 0


def test_lmcache_is_ordered_by_time_and_counts_from_its_start(tmp_path: Path) -> None:
    trace = read_trace([written(tmp_path, "calls.jsonl", lmcache_calls())])
    assert [(request.session, request.arrival_s) for request in trace.requests] == [
        ("a", 0.0),
        ("b", 2.0),
    ]


def test_messages_take_parts_tools_and_missing_fields(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": TASK["content"]}, {"type": "image_url", "image_url": {}}]
    call = {"messages": [SYSTEM, {"role": "user", "content": parts}]}
    lines = [call, {**call, "tools": [{"name": "bash"}], "output": ANSWER}]
    plain, tooled = read_trace([written(tmp_path, "c.jsonl", json_lines(lines))]).requests
    assert plain.arrival_s is None
    assert plain.session != tooled.session
    assert plain.output_tokens == 0 < tooled.output_tokens
    assert plain.blocks[0] != tooled.blocks[0]


def test_swe_agent_cuts_old_observations_as_the_agent_did(tmp_path: Path) -> None:
    task = {**TASK, "message_type": "observation"}
    history = [SYSTEM, task, *([CALL, RESULT] * 4), ANSWER]
    processor = {"type": "last_n_observations", "n": 2}
    config = {"agent": {"history_processors": [processor]}}
    appended = written(tmp_path, "a.traj", swe_trajectory(history=history))
    cut = written(tmp_path, "b.traj", swe_trajectory(history=history, replay_config=config))
    assert read_trace([cut]).references < read_trace([appended]).references
    assert read_trace([cut]).infinite_hit_rate < read_trace([appended]).infinite_hit_rate


def test_swe_agent_takes_recorded_queries_word_for_word(tmp_path: Path) -> None:
    steps = [{"query": CONVERSATION[:2], "response": "x"}, {"query": CONVERSATION, "response": "y"}]
    trace = read_trace([written(tmp_path, "a.traj", swe_trajectory(trajectory=steps))])
    calls = written(tmp_path, "b.jsonl", message_calls())
    assert [list(request.blocks) for request in trace.requests] == [
        list(request.blocks) for request in read_trace([calls]).requests
    ]


def packed_tar(folder: Path) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as members:
        members.add(folder, arcname="recorded")
    return target.getvalue()


def test_folders_and_packed_files_read_alike(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in "one", "two":
        written(folder, f"{name}.json", claude_session(name))
    written(folder, "empty.json", b"")
    written(folder, "README.md", b"Not a trace.")
    tar = packed_tar(folder)
    shapes = [
        folder,
        written(tmp_path, "t.tar", tar),
        written(tmp_path, "t.tar.gz", gzip.compress(tar)),
        written(tmp_path, "t.tar.zst", zstandard.compress(tar)),
    ]
    ids = [
        sorted(tuple(request.blocks) for request in read_trace([path]).requests) for path in shapes
    ]
    assert ids.count(ids[0]) == len(shapes)
    for ending, content in (
        (".gz", gzip.compress(mooncake_lines())),
        (".zst", zstandard.compress(mooncake_lines())),
    ):
        plain = read_trace([written(tmp_path, "calls.jsonl", mooncake_lines())])
        packed = read_trace([written(tmp_path, f"calls.jsonl{ending}", content)])
        assert packed.requests == plain.requests


def test_a_sample_is_the_first_sessions_with_their_sub_agents(tmp_path: Path) -> None:
    for name in "abc":
        written(tmp_path, f"{name}.json", claude_session(name))
    sampled = read_trace([tmp_path], sessions=2)
    assert {request.session for request in sampled.requests} == {
        "a", "a::agent_001", "b", "b::agent_001",
    }  # fmt: skip
    assert len(read_trace([tmp_path], sessions=2, requests=7).requests) == 7


def test_a_sample_reads_no_further_than_it_must(tmp_path: Path) -> None:
    first = written(tmp_path, "a.json", claude_session("a"))
    second = written(tmp_path, "b.json", claude_session("b"))
    broken = written(tmp_path, "c.json", b'{"hash_ids": 1, "requests": ')
    sampled = read_trace([first, second, broken], sessions=1)
    assert {request.session for request in sampled.requests} == {"a", "a::agent_001"}


def test_sessions_are_sampled_across_interleaving(tmp_path: Path) -> None:
    line = {"timestamp": 0, "input_length": 64, "output_length": 1, "hash_ids": [0]}
    lines = [{**line, "session": name} for name in "abacba"]
    trace = read_trace([written(tmp_path, "t.jsonl", json_lines(lines))], sessions=2)
    assert [request.session[-1] for request in trace.requests] == list("ababa")


def test_several_paths_follow_one_another_with_names_of_their_own(tmp_path: Path) -> None:
    paths = [
        written(tmp_path, f"{folder}/same.json", claude_session(folder)) for folder in ("x", "y")
    ]
    trace = read_trace(paths)
    assert len(trace.requests) == 10
    assert {request.session for request in trace.requests} == {
        "same", "same::agent_001", "same#2", "same#2::agent_001",
    }  # fmt: skip


def test_larger_and_smaller_blocks_stand_for_the_same_prefixes(tmp_path: Path) -> None:
    path = written(tmp_path, "t.jsonl", mooncake_lines())
    larger = read_trace([path], block_tokens=1024)
    smaller = read_trace([path], block_tokens=128)
    assert [len(request.blocks) for request in larger.requests] == [1, 2, 1]
    assert [len(request.blocks) for request in smaller.requests] == [12, 16, 8]
    assert smaller.infinite_hit_rate == read_trace([path]).infinite_hit_rate
    assert_ids_name_prefixes(larger)
    assert_ids_name_prefixes(smaller)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text(max_size=400), min_size=1, max_size=6), block=st.integers(1, 9))
def test_equal_ids_are_equal_prefixes_for_any_text(
    tmp_path: Path, texts: list[str], block: int
) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    lines = [{"messages": messages[: at + 1]} for at in range(len(messages))]
    path = written(tmp_path, "t.jsonl", json_lines(lines))
    trace = read_trace([path], block_tokens=block)
    assert_ids_name_prefixes(trace)
    for shorter, longer in zip(trace.requests, trace.requests[1:], strict=False):
        assert list(longer.blocks[: len(shorter.blocks)]) == list(shorter.blocks)


@settings(deadline=None)
@given(st.data())
def test_the_infinite_cache_agrees_with_looking_at_every_block(data: st.DataObject) -> None:
    paths = st.lists(st.integers(0, 2), max_size=5).map(tuple)
    prompts = data.draw(st.lists(paths, max_size=12))
    number: dict[tuple[int, ...], int] = {}
    chains = [
        [number.setdefault(path[:depth], len(number)) for depth in range(1, len(path) + 1)]
        for path in prompts
    ]
    seen: set[int] = set()
    hits = 0
    for chain in chains:
        hits += sum(block in seen for block in chain)
        seen.update(chain)
    trace = trace_of(chains)
    assert trace.unique_blocks == len(seen)
    assert trace.infinite_hit_rate == hits / max(1, sum(map(len, chains)))


def trace_of(chains: Sequence[Sequence[int]]) -> Trace:
    return Trace("made", 64, tuple(TraceRequest("s", None, chain, 1) for chain in chains))


BROKEN = {
    "not JSON": (b"{]\n", "mooncake", "line 1"),
    "a list": (b"[1]\n", "mooncake", "wanted an object"),
    "no hash_ids": (b'{"timestamp": 0, "input_length": 1}\n', "mooncake", "'hash_ids'"),
    "text ids": (
        b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": ["a"]}',
        "mooncake",
        "hash_ids",
    ),
    "fractional ids": (
        b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0.5]}',
        "auto",
        "hash_ids",
    ),
    "negative ids": (
        b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [3, -4]}',
        "auto",
        "-4",
    ),
    "negative tokens": (
        b'{"timestamp": 0, "input_length": 1, "output_length": -1, "hash_ids": []}',
        "auto",
        "output_length is -1",
    ),
    "unknown scope": (
        b'{"hash_id_scope": "world", "requests": []}',
        "claude-code",
        "known scopes: local, global",
    ),
    "of no format": (b'{"colour": "red"}', "auto", "mooncake, claude-code"),
    "messages without role": (b'{"messages": [{"content": "x"}]}', "auto", "messages[0]"),
    "empty": (b"\n", "auto", "no request"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trace_says_where_and_what(case: str, tmp_path: Path) -> None:
    content, format_name, told = BROKEN[case]
    path = written(tmp_path, "broken.jsonl", content)
    with pytest.raises(TraceError) as caught:
        read_trace([path], format=format_name)
    assert "broken.jsonl" in str(caught.value)
    assert told in str(caught.value)
    assert caught.value.remedy


def test_what_is_asked_for_must_make_sense(tmp_path: Path) -> None:
    path = written(tmp_path, "t.jsonl", mooncake_lines())
    other = written(tmp_path, "c.json", claude_session("c"))
    text = written(tmp_path, "m.jsonl", message_calls())
    with pytest.raises(TraceError, match="known: auto, mooncake, claude-code"):
        read_trace([path], format="moonrise")
    with pytest.raises(TraceError, match="multiple or a divisor of 512"):
        read_trace([path], block_tokens=100)
    with pytest.raises(TraceError, match="blocks of 512 and of 64 tokens"):
        read_trace([path, other])
    with pytest.raises(TraceError, match="sessions = 0"):
        read_trace([path], sessions=0)
    with pytest.raises(TraceError, match="cl100k_base"):
        read_trace([text], tokenizer="cl200k_base")
    assert (
        len(
            {
                len(request.blocks)
                for request in read_trace([path, other], block_tokens=512).requests
            }
        )
        > 1
    )


def test_a_missing_cut_or_foreign_file_is_named(tmp_path: Path) -> None:
    cut = written(tmp_path, "cut.jsonl.gz", gzip.compress(mooncake_lines())[:-12])
    fake = written(tmp_path, "fake.jsonl.zst", b"plain text")
    for path in (tmp_path / "absent.jsonl", cut, fake):
        with pytest.raises(TraceError, match=path.name):
            read_trace([path])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TraceError, match="no trace in it"):
        read_trace([tmp_path / "nothing"])
