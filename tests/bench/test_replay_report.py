"""A report adds up, says what has to be known, and reads as a table, as JSON and as a page."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tierd.core.errors import DaemonUnreachable
from tierd.core.keys import BlockKey
from tierd_bench.replay.agenda import Pace
from tierd_bench.replay.content import CorruptPage
from tierd_bench.replay.driver import Driven
from tierd_bench.replay.machine import this_machine
from tierd_bench.replay.outcomes import Outcome, RouteShare
from tierd_bench.replay.page import render_page
from tierd_bench.replay.report import Report, Setting, latency, make_report
from tierd_bench.replay.samples import POINTS_MAX, Sampler
from tierd_bench.replay.table import render_table
from tierd_bench.traces import Trace, TraceRequest
from tierd_proto.v1 import tierd_pb2 as pb

MS = 1_000_000
TRACE = Trace(
    "<b>odd</b> & name",
    64,
    (TraceRequest("a", None, (1, 2, 3), 5), TraceRequest("b", None, (1, 2, 4, 5), 5)),
)
SETTING = Setting(1024, {"users": 8, "sessions": None}, this_machine(), "0", held_before=0)


class ScriptedDaemon:
    """Answers with one reply after another; None is a daemon that is away."""

    def __init__(self, *replies: pb.StatusReply | None) -> None:
        self._replies: Iterator[pb.StatusReply | None] = iter(replies)

    def status(self) -> pb.StatusReply:
        reply = next(self._replies)
        if reply is None:
            raise DaemonUnreachable("here", "gone")
        return reply


def status(boot: bytes = b"1", evictions: int = 0) -> pb.StatusReply:
    tiers = [
        pb.TierStatus(name="device", medium="emulated", bytes_max=50, bytes_used=10),
        pb.TierStatus(name="disk", bytes_max=100, bytes_used=20, evictions=evictions),
    ]
    return pb.StatusReply(boot=boot, tiers=tiers)


def sampled(*replies: pb.StatusReply | None) -> Sampler:
    clock = iter(range(1, 10_000))
    sampler = Sampler(ScriptedDaemon(*replies), lambda: next(clock))
    for _ in replies:
        sampler.sample()
    return sampler


def outcome(index: int, asked: int, **known: object) -> Outcome:
    bare = Outcome(
        index=index,
        start_ns=index * MS,
        end_ns=(index + 1) * MS,
        late_ns=0,
        asked=asked,
        hits={},
        routes={},
        fetch_ns=2 * MS,
        publish_ns=0,
        published=0,
        unpublished=0,
        corrupt_blocks=0,
        corrupt_pages=(),
        cut="",
        faults=(),
    )
    return replace(bare, **known)  # type: ignore[arg-type]


OUTCOMES = (
    outcome(0, 3, published=3, publish_ns=4 * MS, routes={"publish": RouteShare(3, 300, MS)}),
    outcome(
        1,
        4,
        hits={"host": 1, "disk": 1},
        routes={"host": RouteShare(1, 2_000_000, MS), "disk-staged": RouteShare(1, 100, MS)},
        corrupt_blocks=1,
        corrupt_pages=(CorruptPage(BlockKey(b"k" * 16), 7),),
        cut="deadline",
        faults=("LeaseExpired: late", "LeaseExpired: late"),
    ),
)
DRIVEN = Driven(OUTCOMES, Pace(), wall_ns=10 * MS, interrupted=False)


@pytest.fixture
def report() -> Report:
    return make_report(TRACE, DRIVEN, sampled(status(), status(evictions=4)), SETTING)


def test_every_token_asked_is_a_hit_of_some_tier_or_missed(report: Report) -> None:
    assert report.tokens_hit == {"device": 0, "host": 64, "disk": 64}
    assert report.tokens_asked == 7 * 64 == sum(report.tokens_hit.values()) + report.tokens_missed
    assert report.hit_rate == report.infinite_cache_hit_rate == 2 / 7


def test_sums_routes_and_gives_what_one_user_saw(report: Report) -> None:
    assert report.bytes_by_route == {"host": 2_000_000, "publish": 300, "disk-staged": 100}
    assert report.gb_per_s_by_route["host"] == 2.0
    assert report.seconds_by_route["host"] == 0.001


def test_times_leave_out_requests_that_had_nothing_to_do(report: Report) -> None:
    assert (report.fetch_ms.count, report.fetch_ms.p50) == (2, 2.0)
    assert (report.publish_ms.count, report.publish_ms.max) == (1, 4.0)
    assert latency([]).count == 0


def test_has_the_fields_that_others_rely_on(report: Report) -> None:
    written = json.loads(json.dumps(report.as_json()))
    assert written["fetch_ms"].keys() >= {"p50", "p90", "p99"}
    assert written["evictions"] == 4
    assert written["corrupt_blocks"] == 1
    assert written["fetches_cut"] == {"deadline": 1}
    assert written["faults"] == {"LeaseExpired: late": 2}
    assert written["corrupt_pages"] == [f"block {(b'k' * 16).hex()}, page 7"]
    assert written.keys() >= {
        "requests",
        "seconds_by_route",
        "publish_ms",
        "disk_bytes_written",
        "wall_s",
        "config",
    }


def test_says_what_is_not_what_it_seems(report: Report) -> None:
    notes = " ".join(report.notes)
    assert "device tier is emulated" in notes
    assert "1024 bytes a token" in notes
    later = make_report(TRACE, DRIVEN, sampled(status()), replace(SETTING, held_before=9))
    assert "9 blocks of this trace were in the daemon before" in " ".join(later.notes)


def test_counts_go_on_over_a_restart_of_the_daemon() -> None:
    before, after = status(evictions=5), status(b"2", evictions=2)
    sampler = sampled(status(evictions=3), before, None, None, after, status(b"2", evictions=3))
    assert sampler.totals.evictions["disk"] == 2 + 3
    assert sampler.gaps == 1
    present = [bool(sample.tiers) for sample in sampler.samples]
    assert present == [True, True, False, False, True, True]


def test_notices_a_restart_between_two_samples() -> None:
    sampler = sampled(status(evictions=3), status(b"2", evictions=2))
    assert (sampler.gaps, sampler.totals.evictions["disk"]) == (1, 2)


def test_a_daemon_that_comes_back_as_it_was_has_lost_nothing() -> None:
    sampler = sampled(status(evictions=3), None, status(evictions=4))
    assert (sampler.gaps, sampler.totals.evictions["disk"]) == (1, 1)


def test_keeps_a_bounded_number_of_samples() -> None:
    sampler = sampled(*[status()] * (3 * POINTS_MAX))
    assert POINTS_MAX // 2 <= len(sampler.samples) <= POINTS_MAX
    assert sampler.samples[0].at_ns == 1


def test_the_table_shows_the_figures(report: Report) -> None:
    console = Console(width=100, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(render_table(report))
    shown = captured.get()
    assert re.search(r"hit, all tiers\s+│\s+128 │\s+28.57 %", shown)
    assert re.search(r"corrupt blocks\s+│\s+1 ", shown)


class _Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [name for name, _ in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_else_and_escapes_names(report: Report) -> None:
    page = render_page(report, DRIVEN, sampled(status(), status()))
    sources = _Sources()
    sources.feed(page)
    assert sources.found == []
    assert "&lt;b&gt;odd&lt;/b&gt; &amp; name" in page
    assert "<b>odd" not in page
    assert "{{" not in page.split("<body>")[1].split("<script>")[0]
    for title in ("Hit rate over time", "Bytes and bandwidth", "Latency", "How full"):
        assert title in page


def test_a_replay_of_nothing_still_makes_a_page() -> None:
    driven = Driven((), Pace(), wall_ns=0, interrupted=True)
    empty = make_report(TRACE, driven, sampled(status()), SETTING)
    assert (empty.hit_rate, empty.tokens_asked) == (0.0, 0)
    assert "Interrupted" in " ".join(empty.notes)
    assert render_page(empty, driven, sampled(status()))
