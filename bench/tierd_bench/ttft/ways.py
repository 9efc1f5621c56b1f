"""Where an engine's KV can come from, and how to bring that about."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tierd.core.units import GiB
from tierd_bench.ttft.daemon import Daemon
from tierd_bench.ttft.engines import Engine, EngineFacts
from tierd_bench.ttft.lmcache import LMCacheServer

IN_MEMORY: Final = "host"
ON_DISK: Final = "disk"
"""Names of places."""

_OFFLOAD_BYTES: Final = 1 * GiB


@dataclass(frozen=True, slots=True)
class Setting:
    """What all engines have in common. `place` is on the disk under test."""

    python: Path
    lmcache_python: Path
    model: Path
    tokens_max: int
    cache_gib: int
    place: Path


@dataclass(frozen=True, slots=True)
class Store:
    """An engine and what it may keep KV in.

    `places` has for each place what to call so that the engine's next question finds there, and
    nowhere nearer, what it was asked before.
    """

    name: str
    engine: Engine
    facts: EngineFacts
    places: Mapping[str, Callable[[], None]] = field(default_factory=dict)


Opener = Callable[[Setting, ExitStack], Store]


def open_alone(setting: Setting, stack: ExitStack) -> Store:
    """An engine with its own prefix cache and no other."""
    engine, facts = _engine("vllm", setting, stack, setting.python, None)
    return Store("vllm", engine, facts)


def open_tierd(setting: Setting, stack: ExitStack) -> Store:
    """An engine with a daemon, whose blocks lie in its host tier or on its disk only."""
    daemon = stack.enter_context(Daemon(setting.place / "tierd"))
    connector = {
        "kv_connector": "TierdConnector",
        "kv_connector_module_path": "tierd_client.engines.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"address": daemon.address},
    }
    engine, facts = _engine("tierd", setting, stack, setting.python, connector)

    def on_host() -> None:
        engine.forget()
        daemon.settle()

    def on_disk() -> None:
        engine.forget()
        daemon.restart()

    return Store("tierd", engine, facts, {IN_MEMORY: on_host, ON_DISK: on_disk})


def open_offload(setting: Setting, stack: ExitStack) -> Store:
    """An engine with vLLM's own offloading, to memory and from there to files."""
    files = {"type": "fs", "root_dir": str(setting.place / "offload")}
    engine, facts = _engine("offload", setting, stack, setting.python, _offloading(files))
    places = {IN_MEMORY: engine.forget, ON_DISK: engine.forget_connector_too}
    return Store("offload", engine, facts, places)


def open_tier(setting: Setting, stack: ExitStack) -> Store:
    """The same with tierd in the place of the files, and vLLM's memory always empty."""
    daemon = stack.enter_context(Daemon(setting.place / "tier"))
    module = "tierd_client.engines.vllm.tier"
    tier = {"type": "TierdTier", "module_path": module, "address": daemon.address}
    engine, facts = _engine("tier", setting, stack, setting.python, _offloading(tier))

    def on_host() -> None:
        engine.forget_connector_too()
        daemon.settle()

    def on_disk() -> None:
        engine.forget_connector_too()
        daemon.restart()

    return Store("tier", engine, facts, {IN_MEMORY: on_host, ON_DISK: on_disk})


def open_lmcache(setting: Setting, stack: ExitStack) -> Store:
    """An engine with LMCache's server, in its memory or in its files only."""
    server = stack.enter_context(LMCacheServer(setting.lmcache_python, setting.place / "lmcache"))
    python = setting.lmcache_python
    engine, facts = _engine("lmcache", setting, stack, python, server.connector)

    def in_files() -> None:
        engine.forget()
        server.clear_memory()

    def in_memory() -> None:
        engine.forget()
        server.settle()

    return Store("lmcache", engine, facts, {IN_MEMORY: in_memory, ON_DISK: in_files})


STORES: Final[Mapping[str, Opener]] = {
    "tierd": open_tierd,
    "offload": open_offload,
    "lmcache": open_lmcache,
    "tier": open_tier,
}
"""Beside the engine alone, which is always there."""

USUAL: Final = ("tierd", "offload", "lmcache")
"""What is measured unless something else is asked for."""

ABOUT: Final = {
    "tierd": "vLLM with tierd's connector",
    "offload": "vLLM with its own tiered offloading: memory, then files",
    "lmcache": "vLLM with LMCache's server: memory, then files",
    "tier": "vLLM with its own tiered offloading: memory, then tierd",
}


def open_stores(setting: Setting, names: Sequence[str], stack: ExitStack) -> list[Store]:
    """Start the engine alone and those named, one after the other.

    Raises:
        EngineFailed: one did not start; what to do is said.
        DaemonFailed: the daemon did not.
    """
    return [open_alone(setting, stack), *(STORES[name](setting, stack) for name in names)]


def _offloading(tier: Mapping[str, str]) -> dict[str, Any]:
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "OffloadOnCpu",
            "spec_module_path": "tierd_bench.ttft.offload_on_cpu",
            "cpu_bytes_to_use": _OFFLOAD_BYTES,
            "secondary_tiers": [tier],
        },
    }


def _engine(
    name: str,
    setting: Setting,
    stack: ExitStack,
    python: Path,
    connector: Mapping[str, Any] | None,
) -> tuple[Engine, EngineFacts]:
    log = setting.place / f"{name}.log"
    engine = stack.enter_context(Engine(name, python, log, setting.cache_gib))
    return engine, engine.load(setting.model, setting.tokens_max, connector)
