"""What an inference process imports: connect, open a namespace, fetch and publish.

    client = connect()
    kv = client.open(layout)
    fetched = kv.fetch(tokens, into=buffer)
    kv.publish(tokens, buffer)

`tierd_client.aio` has the same calls for asyncio.
"""

from tierd.core.errors import (
    DaemonUnreachable,
    InvalidRequest,
    NamespaceConflict,
    TierdError,
)
from tierd.core.keys import BlockKey, adopt_keys, chain_keys
from tierd.core.layouts import LayerGroup, LayoutSpec, opaque_layout
from tierd_client.apart import Apart
from tierd_client.buffers import Scattered
from tierd_client.client import Client, connect
from tierd_client.layering import Layers
from tierd_client.loader import RouteUse
from tierd_client.namespace import Namespace
from tierd_client.renewal import Held
from tierd_client.results import Fetched, Matched, Published
from tierd_client.views import Reservation, Views

__all__ = [
    "Apart",
    "BlockKey",
    "Client",
    "DaemonUnreachable",
    "Fetched",
    "Held",
    "InvalidRequest",
    "LayerGroup",
    "Layers",
    "LayoutSpec",
    "Matched",
    "Namespace",
    "NamespaceConflict",
    "Published",
    "Reservation",
    "RouteUse",
    "Scattered",
    "TierdError",
    "Views",
    "adopt_keys",
    "chain_keys",
    "connect",
    "opaque_layout",
]
