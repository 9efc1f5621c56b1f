"""The HTTP side of a daemon, over a real socket."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from tests.replies import busy_reply
from tierd.service.http import serve_http


@asynccontextmanager
async def served(
    ready: Callable[[], bool] = lambda: True,
) -> AsyncIterator[tuple[ClientSession, str]]:
    runner = await serve_http("127.0.0.1:0", busy_reply, ready)
    try:
        [(host, port)] = runner.addresses
        async with ClientSession() as session:
            yield session, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_metrics_are_what_prometheus_reads() -> None:
    async with served() as (session, url), session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    assert answer.status == 200
    assert answer.content_type == "text/plain"
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"tierd_tokens", "tierd_tier_bytes_used", "tierd_route_bytes"} <= names


async def test_metrics_in_the_format_that_is_asked_for() -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with served() as (session, url), session.get(f"{url}/metrics", headers=accept) as answer:
        text = await answer.text()
    assert answer.content_type == "application/openmetrics-text"
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("ready", "code", "says"), [(True, 200, "ready"), (False, 503, "draining")]
)
async def test_health(ready: bool, code: int, says: str) -> None:
    async with served(lambda: ready) as (session, url), session.get(f"{url}/healthz") as answer:
        assert (answer.status, (await answer.text()).strip()) == (code, says)


async def test_status_is_json() -> None:
    async with served() as (session, url), session.get(f"{url}/status") as answer:
        fields = json.loads(await answer.text())
    assert answer.content_type == "application/json"
    assert fields["hit_rate"] == 0.9
    assert fields["tiers"][1]["cause"] == "[EIO] segment 3"


async def test_an_address_in_use_is_refused() -> None:
    async with served() as (_, url):
        with pytest.raises(OSError, match="in use"):
            await serve_http(url.removeprefix("http://"), busy_reply, lambda: True)
