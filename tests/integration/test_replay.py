"""`tierd replay` against real daemons: what it hits, checks, survives and says."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tierd.cli.main import app
from tierd.core.units import MiB
from tierd_bench.replay.agenda import Loop, Pace
from tierd_bench.replay.driver import Drive, Progress
from tierd_bench.replay.embedded import EmbeddedSizes, embedded_daemon
from tierd_bench.replay.plan import Embedded, Plan, Replayed, Running, replay_trace
from tierd_bench.traces import PRESETS, Trace, generate
from tierd_client import connect

SMALL = EmbeddedSizes(host=64 * MiB, disk=128 * MiB)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate(PRESETS["agent-demo"].workload, sessions=12, seed=1).trace()


def quiet(_: Progress) -> None:
    """Take progress, and say nothing."""


def replay(trace: Trace, daemon: Running | Embedded, drive: Drive | None = None) -> Replayed:
    plan = Plan(1024, drive or Drive(users=4), daemon, "0", {})
    return replay_trace(trace, plan, quiet)


@pytest.mark.parametrize("loop", list(Loop))
def test_hits_what_an_infinite_cache_hits_when_all_fits(trace: Trace, loop: Loop) -> None:
    report = replay(trace, Embedded(SMALL), Drive(8, Pace(loop=loop))).report
    assert report.corrupt_blocks == 0
    assert report.hit_rate == report.infinite_cache_hit_rate
    assert report.tokens_asked == sum(report.tokens_hit.values()) + report.tokens_missed
    assert report.tokens_asked == trace.references * trace.block_tokens
    assert report.blocks_published == trace.unique_blocks
    assert not report.faults


def test_every_tier_serves_right_bytes_when_memory_is_short(trace: Trace) -> None:
    sizes = EmbeddedSizes(device=2 * MiB, host=6 * MiB, disk=128 * MiB)
    report = replay(trace, Embedded(sizes), Drive(users=2)).report
    assert report.corrupt_blocks == 0
    assert report.tokens_asked == sum(report.tokens_hit.values()) + report.tokens_missed
    assert all(report.tokens_hit[tier] > 0 for tier in ("device", "host", "disk"))
    assert report.evictions > 0
    assert report.disk_bytes_written > 0
    assert any("emulated" in note for note in report.notes)


def test_a_second_replay_finds_on_disk_what_the_first_left(trace: Trace, tmp_path: Path) -> None:
    daemon = Embedded(SMALL, directory=tmp_path)
    replay(trace, daemon)
    again = replay(trace, daemon).report
    assert again.corrupt_blocks == 0
    assert again.hit_rate == 1.0
    assert again.held_before == trace.unique_blocks
    assert again.tokens_hit["disk"] > 0


def test_a_kill_in_the_middle_costs_hits_and_nothing_else(trace: Trace, tmp_path: Path) -> None:
    settings = ["tiers.region_bytes=4MiB", "tiers.host.bytes=64MiB", "tiers.disk.bytes=128MiB"]
    drive = Drive(users=4, pace=Pace(speed=100.0))
    killed = threading.Event()

    with embedded_daemon(settings, tmp_path) as daemon:
        with connect(daemon.address) as client:
            pid = client.status().pid

        def kill_in_the_middle(progress: Progress) -> None:
            if not killed.is_set() and progress.requests > len(trace.requests) // 3:
                os.kill(pid, signal.SIGKILL)
                killed.set()

        plan = Plan(1024, drive, Running(daemon.address), "0", {})
        first = replay_trace(trace, plan, kill_in_the_middle)
    assert killed.is_set()
    assert first.report.requests == len(trace.requests)
    assert first.report.corrupt_blocks == 0
    assert first.report.daemon_gaps == 1

    second = replay(trace, Embedded(SMALL, directory=tmp_path)).report
    assert second.corrupt_blocks == 0
    assert second.held_before > 0
    assert second.hit_rate > second.infinite_cache_hit_rate


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["replay", *arguments])


def test_the_command_writes_what_it_shows(tmp_path: Path) -> None:
    made = generate(PRESETS["agent-demo"].workload, sessions=3, seed=2)
    made.write(tmp_path / "small.jsonl.gz")
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    result = run(
        str(tmp_path / "small.jsonl.gz"),
        "--embedded",
        "--host=64MiB",
        "--disk=128MiB",
        f"--json={figures}",
        f"--html={page}",
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(figures.read_text())
    assert report["hit_rate"] == made.trace().infinite_hit_rate
    assert report["config"]["daemon"] == "embedded"
    assert f"{report['tokens_asked']:,}" in result.stdout
    assert "Plotly.react" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl", "--embedded"], "missing.jsonl"),
        (["{trace}", "--embedded", "--host", "many"], "--host is 'many'"),
        (["{trace}", "--embedded", "--speed", "0"], "--speed"),
        (["{trace}", "--embedded", "--daemon", "/there"], "exclude each other"),
        (["{trace}", "--embedded", "--set", "tiers.hots.bytes=1GiB"], "did you mean tiers"),
        (["{trace}", "--embedded", "--set", "listen.unix=/a.sock"], "a socket of its own"),
        (["{trace}", "--embedded", "--json", "/nowhere/at/all.json"], "no such directory"),
        (["{trace}", "--daemon", "/nowhere/tierd.sock"], "no daemon at"),
        (["{trace}", "--bytes-per-token", "2GiB", "--embedded"], "bytes"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do_next(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    file = tmp_path / "small.jsonl"
    generate(PRESETS["agent-demo"].workload, sessions=1, seed=0).write(file)
    result = run(*(argument.format(trace=file) for argument in arguments))
    assert result.exit_code in (1, 2), result.output
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: ")
    assert "Traceback" not in result.output
