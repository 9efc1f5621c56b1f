"""tierd as a KV connector of vLLM: the cache of every engine on this host, across its restarts.

    --kv-transfer-config '{"kv_connector": "TierdConnector", "kv_role": "kv_both"}'

The entry point `register` makes the name known to vLLM. Where plugins are switched off, add
`"kv_connector_module_path": "tierd_client.engines.vllm"`.

    settings.py    what `kv_connector_extra_config` may say
    layout.py      from an engine's configuration and tensors to a `LayoutSpec`
    messages.py    what scheduler and workers tell each other
    matching.py    what the daemon holds of a request, asked without waiting
    paying.py      whether a load is faster than computing
    events.py      what subscribers to block events hear
    stats.py       what vLLM logs
    scheduler.py   the side in vLLM's scheduler: what to load and what to save
    worker.py      the side in each worker: starts and ends what moves bytes, in threads
    loading.py     into an engine's pages
    saving.py      out of them
    link.py        a connection to a daemon that may come later
    connector.py   vLLM's interface, handed on to these two
    tier.py        the other way in: a second tier of vLLM's own tiered offloading
    chunks.py      its chunks as blocks
"""

import contextlib
from typing import Any


def register() -> None:
    """Make `TierdConnector`, and the tier "tierd", known. Called by vLLM in its processes."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    path = "tierd_client.engines.vllm"
    with contextlib.suppress(ValueError):  # It may be registered: plugins can be loaded twice.
        KVConnectorFactory.register_connector(
            "TierdConnector", f"{path}.connector", "TierdConnector"
        )
    with contextlib.suppress(ValueError, ImportError):  # Older versions have no such tiers.
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

        SecondaryTierFactory.register_tier("tierd", f"{path}.tier", "TierdTier")


def __getattr__(name: str) -> Any:
    # vLLM is imported only when the class is wanted: plugins are loaded before it is ready.
    if name == "TierdConnector":
        from tierd_client.engines.vllm.connector import TierdConnector

        return TierdConnector
    raise AttributeError(name)
