"""The metrics parse, add up, and never fall."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.replies import busy_reply
from tierd.service.metrics import StatusCollector
from tierd_proto.v1 import tierd_pb2 as pb

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana/tierd.json"

Labels = tuple[tuple[str, str], ...]


def registry_of(status: Callable[[], pb.StatusReply]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    return registry


def scrape(registry: CollectorRegistry) -> dict[tuple[str, Labels], float]:
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def outcomes(samples: dict[tuple[str, Labels], float]) -> dict[str, float]:
    return {
        dict(labels)["outcome"]: value
        for (name, labels), value in samples.items()
        if name == "tierd_tokens_total"
    }


def asked(samples: dict[tuple[str, Labels], float]) -> float:
    return sum(value for (name, _), value in samples.items() if name == "tierd_tokens_asked_total")


def test_every_part_of_the_status_is_there() -> None:
    samples = scrape(registry_of(lambda: busy_reply(10)))
    disk = (("tier", "disk"),)
    space = (("namespace", "[tenant] a"),)
    route = (("source", "disk"), ("target", "host"))
    assert samples["tierd_tier_evictions_total", disk] == 70
    assert samples["tierd_tier_online", disk] == 0
    assert samples["tierd_tier_blocks", disk] == 8192
    assert samples["tierd_corrupt_blocks_total", space] == 2
    assert samples["tierd_requests_total", space] == 10
    assert samples["tierd_route_busy_seconds_total", route] == 5.0
    assert samples["tierd_route_failed_blocks_total", route] == 1
    assert samples["tierd_uptime_seconds", ()] == 10.0
    assert samples["tierd_leased_blocks", ()] == 6250


def test_every_metric_has_a_help_text() -> None:
    text = generate_latest(registry_of(busy_reply)).decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name


def test_tokens_asked_are_the_sum_of_the_outcomes() -> None:
    samples = scrape(registry_of(lambda: busy_reply(10)))
    assert outcomes(samples) == {"host": 700, "disk": 200, "missed": 100}
    assert asked(samples) == 1000


def test_a_hit_that_becomes_a_miss_makes_no_counter_fall() -> None:
    """A fall reads as a restart: all tokens ever counted would appear as one moment's rate."""
    steps = [([700, 200], 100), ([700, 160], 140), ([700, 190], 160), ([800, 260], 160)]
    reply = busy_reply()
    registry = registry_of(lambda: reply)
    before: dict[str, float] = {}
    for hit, missed in steps:
        [space] = reply.namespaces
        space.tokens_hit[:] = hit
        space.tokens_missed = missed
        space.tokens_asked = sum(hit) + missed
        samples = scrape(registry)
        shown = outcomes(samples)
        assert sum(shown.values()) == asked(samples)
        assert all(shown[name] >= value for name, value in before.items())
        before = shown
    assert before == {"host": 800, "disk": 260, "missed": 160}


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked_for = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"tierd_\w+", target["expr"])
    }
    there_are = {name for name, _ in scrape(registry_of(busy_reply))}
    assert asked_for
    assert asked_for <= there_are
