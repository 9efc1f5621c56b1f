"""What the daemon answers over HTTP: metrics, health, and the status as JSON.

What the answers say is left to `status` and `metrics`.
"""

from collections.abc import Callable

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tierd.service.metrics import StatusCollector
from tierd.service.status import status_json
from tierd_proto.v1 import tierd_pb2 as pb

_SHUTDOWN_S = 1.0
"""How long answers under way may take when the daemon stops; they are small."""


async def serve_http(
    address: str, status: Callable[[], pb.StatusReply], ready: Callable[[], bool]
) -> web.AppRunner:
    """Listen on `host:port` until the runner is cleaned up. Port 0: a free one, in its `addresses`.

    Both functions are called on the event loop, and must not block.

    Raises:
        OSError: the address cannot be listened on.
    """
    runner = web.AppRunner(_app(status, ready), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    host, _, port = address.rpartition(":")
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def _app(status: Callable[[], pb.StatusReply], ready: Callable[[], bool]) -> web.Application:
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(registry), headers={hdrs.CONTENT_TYPE: content_type})

    async def healthz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ready\n")
        return web.Response(text="draining\n", status=503)

    async def status_as_json(_: web.Request) -> web.Response:
        return web.json_response(status_json(status()))

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/healthz", healthz),
            web.get("/status", status_as_json),
        ]
    )
    return app
