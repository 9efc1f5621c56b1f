"""What an engine can keep KV in beside its own cache, and how to have it in one tier only."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tierd.core.units import GiB
from tierd_bench.ttft.daemon import Daemon
from tierd_bench.ttft.engines import Engine, EngineFacts, transformers_command, vllm_command
from tierd_bench.ttft.lmcache import LMCacheServer

HOST: Final = "host"
DISK: Final = "disk"
"""Names of tiers."""

_OFFLOAD_BYTES: Final = 1 * GiB


@dataclass(frozen=True, slots=True)
class Setting:
    """What all engines have in common. `directory` is on the disk under test."""

    python: Path
    lmcache_python: Path
    model: Path
    tokens_max: int
    cache_gib: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Store:
    """An engine and what it keeps KV in.

    `tiers` has for each tier, hottest first, what to call so that the engine's next question
    finds there, and nowhere hotter, what it was asked before.
    """

    name: str
    engine: Engine
    tiers: Mapping[str, Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Group:
    """Stores that are compared with one engine, which has its own cache and no other."""

    alone: Engine
    facts: EngineFacts
    stores: Sequence[Store]


@dataclass(frozen=True, slots=True)
class Kind:
    """Stores of one kind of engine by name: what each is, and what starts it."""

    alone: Callable[[Setting, ExitStack], tuple[Engine, EngineFacts]]
    stores: Mapping[str, tuple[str, Callable[[Setting, ExitStack], Store]]]

    def open(self, names: Sequence[str], setting: Setting, stack: ExitStack) -> Group:
        """Start the engine alone and those of `names`, one after the other.

        Raises:
            EngineFailed: one did not start; what to do is said.
            DaemonFailed: the daemon did not.
        """
        alone, facts = self.alone(setting, stack)
        stores = [
            start(setting, stack) for name, (_, start) in self.stores.items() if name in names
        ]
        return Group(alone, facts, stores)


def open_vllm(setting: Setting, stack: ExitStack) -> tuple[Engine, EngineFacts]:
    """Open vLLM with its own prefix cache and no other."""
    return _vllm("vllm", setting, stack, setting.python, None)


def open_tierd(setting: Setting, stack: ExitStack) -> Store:
    """Open vLLM with a daemon, whose blocks lie in its host tier or on its disk only."""
    daemon = stack.enter_context(Daemon(setting.directory / "tierd"))
    connector = {
        "kv_connector": "TierdConnector",
        "kv_connector_module_path": "tierd_client.engines.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"address": daemon.address},
    }
    engine, _ = _vllm("tierd", setting, stack, setting.python, connector)
    return Store("tierd", engine, _tiers_of(daemon, engine.forget))


def open_offload(setting: Setting, stack: ExitStack) -> Store:
    """Open vLLM with its own offloading, to memory and from there to files."""
    files = {"type": "fs", "root_dir": str(setting.directory / "offload")}
    engine, _ = _vllm("offload", setting, stack, setting.python, _offloading(files))
    return Store("offload", engine, {HOST: engine.forget, DISK: engine.forget_connector_too})


def open_tier(setting: Setting, stack: ExitStack) -> Store:
    """Open the same with tierd in the place of the files, and vLLM's memory always empty."""
    daemon = stack.enter_context(Daemon(setting.directory / "tier"))
    module = "tierd_client.engines.vllm.tier"
    tier = {"type": "TierdTier", "module_path": module, "address": daemon.address}
    engine, _ = _vllm("tier", setting, stack, setting.python, _offloading(tier))
    return Store("tier", engine, _tiers_of(daemon, engine.forget_connector_too))


def open_lmcache(setting: Setting, stack: ExitStack) -> Store:
    """Open vLLM with LMCache's server, in its memory or in its files only."""
    python = setting.lmcache_python
    server = stack.enter_context(LMCacheServer(python, setting.directory / "lmcache"))
    engine, _ = _vllm("lmcache", setting, stack, python, server.connector)

    def in_memory() -> None:
        engine.forget()
        server.settle()

    def in_files() -> None:
        engine.forget()
        server.clear_memory()

    return Store("lmcache", engine, {HOST: in_memory, DISK: in_files})


def open_transformers(setting: Setting, stack: ExitStack) -> tuple[Engine, EngineFacts]:
    """Open a model of transformers, which goes on with the cache that it has kept."""
    return _transformers("transformers", setting, stack, None)


def open_transformers_tierd(setting: Setting, stack: ExitStack) -> Store:
    """Open the same with `TierdCache`: it keeps nothing, and fetches every prefix."""
    daemon = stack.enter_context(Daemon(setting.directory / "transformers-tierd"))
    connector = {"address": daemon.address}
    engine, _ = _transformers("transformers-tierd", setting, stack, connector)
    return Store("tierd", engine, _tiers_of(daemon, engine.forget))


KINDS: Final = (
    Kind(
        open_vllm,
        {
            "tierd": ("vLLM with tierd's connector", open_tierd),
            "offload": ("vLLM with its own offloading: memory, then files", open_offload),
            "lmcache": ("vLLM with LMCache's server: memory, then files", open_lmcache),
            "tier": ("vLLM with its own offloading: memory, then tierd", open_tier),
        },
    ),
    Kind(
        open_transformers,
        {"transformers": ("a model of transformers with TierdCache", open_transformers_tierd)},
    ),
)
ABOUT: Final = {name: about for kind in KINDS for name, (about, _) in kind.stores.items()}
"""Every store, and what it is."""

USUAL: Final = ("tierd", "offload", "lmcache", "transformers")
"""What is measured unless something else is asked for."""


def _tiers_of(daemon: Daemon, forget: Callable[[], None]) -> dict[str, Callable[[], None]]:
    """Return the tiers of a store that has its blocks in `daemon`, and nothing after `forget`."""

    def on_host() -> None:
        forget()
        daemon.settle()

    def on_disk() -> None:
        forget()
        daemon.restart()

    return {HOST: on_host, DISK: on_disk}


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


def _vllm(
    name: str,
    setting: Setting,
    stack: ExitStack,
    python: Path,
    connector: Mapping[str, Any] | None,
) -> tuple[Engine, EngineFacts]:
    command = vllm_command(python, setting.cache_gib)
    engine = stack.enter_context(Engine(name, command, setting.directory / f"{name}.log"))
    return engine, engine.load(setting.model, setting.tokens_max, connector)


def _transformers(
    name: str, setting: Setting, stack: ExitStack, connector: Mapping[str, Any] | None
) -> tuple[Engine, EngineFacts]:
    command = transformers_command(setting.python)
    engine = stack.enter_context(Engine(name, command, setting.directory / f"{name}.log"))
    return engine, engine.load(setting.model, setting.tokens_max, connector)
