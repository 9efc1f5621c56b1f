"""Builds the daemon from its configuration, runs it, and stops it.

The only module that names concrete tiers and policies. `run` is the whole life of a daemon:
locks, tiers, recovery, listening, and on SIGTERM the way back.
"""

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from itertools import starmap
from pathlib import Path
from secrets import token_bytes
from time import monotonic_ns
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from tierd.control import config as control
from tierd.control import events as ev
from tierd.control.policies import Policies
from tierd.control.store import Store
from tierd.core.addresses import DESCRIPTOR_SUFFIX
from tierd.core.errors import DirectoryInUse
from tierd.core.layouts import LayoutSpec
from tierd.core.slots import sum_of
from tierd.core.units import NS_PER_S, PAGE_BYTES, MiB
from tierd.index.directories import identified, missing
from tierd.index.lmdb_index import Index, NamespaceRecord
from tierd.index.lock import DirectoryLock
from tierd.service.config import Config
from tierd.service.descriptors import DescriptorSocket
from tierd.service.disk_space import look_for_room
from tierd.service.http import serve_http
from tierd.service.sessions import Sessions
from tierd.service.shell import Shell
from tierd.service.status import DaemonFacts, TierUse, build_status
from tierd.tiers.base import Tier
from tierd.tiers.device import CudaDeviceTier, EmulatedDeviceTier, cuda_is_present, page_lock
from tierd.tiers.disk import DiskTier
from tierd.tiers.host import HostTier
from tierd.tiers.throttled import ThrottledTier
from tierd.transfer.doubts import Doubts
from tierd.transfer.mover import Mover
from tierd.transfer.prober import Prober
from tierd.transfer.scrubber import Scrubber
from tierd_policies import registry
from tierd_policies.promotion import PromoteOnHit
from tierd_proto.v1 import tierd_pb2 as pb
from tierd_proto.v1.tierd_pb2_grpc import add_TierdServicer_to_server

_SERVICE: Final = "tierd.v1.Tierd"
_INDEX_BYTES_MIN: Final = 256 * MiB
_RECORDS_FLUSH_S: Final = 1.0

_GRPC_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * MiB),
    ("grpc.so_reuseport", 0),
    # A client whose host is gone ends no stream: it is missed after 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A client asks as often. By default a server ends the connection of one that has been idle
    # for a minute, and with it the session and its leases, for "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

_CLOSING_S: Final = 1.0
"""What is left of the deadline to give everything back."""

_HEADER_BYTES: Final = {"disk": PAGE_BYTES}
"""What a slot, and a segment once, needs on the medium besides the blocks."""

log = logging.getLogger("tierd.daemon")


def run(
    config: Config, stop_with: int | None = None, die_at: str = "", disk_bytes_per_s: int = 0
) -> None:
    """Run a daemon until SIGTERM or SIGINT, or until the process `stop_with` has ended.

    `die_at` is for crash tests: "synced:3" kills the process when the third batch was synced.
    `disk_bytes_per_s` is for benchmarks: the disk reads no faster than that, 0 for as it can.

    Raises:
        DirectoryInUse: another daemon has one of the directories, or the socket.
        FormatMismatch: a directory is of another format version.
        OSError: a socket or directory cannot be used.
    """
    assert __debug__, "unreachable"
    # The usual limit of 1024 is for programs that use select(); clients take two each.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(
        level=config.log.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(_serve(Daemon(config, _death(die_at), disk_bytes_per_s), stop_with))


async def _serve(daemon: "Daemon", stop_with: int | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    bugs: list[BaseException] = []

    def on_bug(_: Any, context: dict[str, Any]) -> None:
        log.critical("%s", context["message"], exc_info=context.get("exception"))
        if isinstance(bug := context.get("exception"), AssertionError):
            bugs.append(bug)
            stop.set()

    loop.set_exception_handler(on_bug)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_with is not None:
        loop.add_reader(os.pidfd_open(stop_with), stop.set)
    try:
        await daemon.start()
        sys.stdout.write("".join(f"tierd listens on {where}\n" for where in daemon.listens))
        sys.stdout.flush()
        await stop.wait()
    finally:
        _leave_within(daemon.deadline_s)
        await daemon.stop()
    if bugs:
        raise bugs[0]


class Daemon:
    """One daemon: `start` it, and `stop` it, once each."""

    def __init__(
        self, config: Config, at_point: Callable[[str], None], disk_bytes_per_s: int
    ) -> None:
        self._config = config
        self._at_point = at_point
        self._disk_bytes_per_s = disk_bytes_per_s
        self._stack = AsyncExitStack()
        self._started_ns = monotonic_ns()
        self._boot = token_bytes(16)
        self._remembered: set[bytes] = set()
        self._index: Index | None = None
        self._scrubber: Scrubber | None = None
        self._ready = False
        self.listens: list[str] = []
        self.deadline_s = config.shutdown.deadline_s

    async def start(self) -> None:
        """Take the directories, find what survived, and listen."""
        config = self._config
        for directory in config.tiers.disk.directories if config.tiers.disk.bytes else ():
            self._stack.callback(DirectoryLock(directory).release)
        if config.tiers.disk.bytes:
            look_for_room(config.tiers.disk.directories, config.tiers.disk.bytes)
        names, tiers = self._build_tiers()
        for tier in tiers:
            self._stack.push_async_callback(tier.aclose)
        self.store = Store(_store_config(config, names))
        self.shell = Shell(self.store, tiers, self._remember)
        disk = names.index("disk") if "disk" in names else None
        self._disk = disk
        if disk is not None:
            directory = config.tiers.disk.directories[0] / "index"
            self._index = Index(directory, max(_INDEX_BYTES_MIN, config.tiers.disk.bytes // 64))
            self._stack.callback(self._index.close)
            _remember_directories(self._index, config.tiers.disk.directories)
        stall_ns = config.tiers.disk.stall_ns
        prober = self._prober = Prober(tiers, self.shell.feed, stall_ns)
        self._stack.callback(prober.close)
        header_bytes = dict(enumerate(tier.header_bytes for tier in self.store.config.tiers))
        self.mover = self.shell.mover = Mover(
            self.shell.rows,
            self.store.config.entry,
            {disk: self._index} if disk is not None and self._index is not None else {},
            self._index.sequence_max() + 1 if self._index else 1,
            self.shell.feed,
            prober,
            header_bytes,
            self._at_point,
            {disk: len(config.tiers.disk.directories)} if disk is not None else {},
        )
        await self._recover()
        await self._listen([tier.medium for tier in tiers])
        self._ready = True
        if disk is not None:
            flusher = asyncio.get_running_loop().create_task(self._flush_records())
            self._stack.callback(flusher.cancel)
            self._start_scrubber(disk)

    async def stop(self) -> None:
        """Stop listening, write down what waits, and give everything back, by the deadline."""
        self._ready = False
        closing_s = min(_CLOSING_S, self.deadline_s / 4)
        try:
            async with asyncio.timeout(self.deadline_s - closing_s):
                if hasattr(self, "_server"):
                    await self._server.stop(grace=0.2)
                if hasattr(self, "mover"):
                    await self._drain()
        except TimeoutError:
            left = self._unwritten()
            log.warning("deadline of %g s: %d blocks not written", self.deadline_s, left)
        await self._stack.aclose()

    def _start_scrubber(self, tier: int) -> None:
        bytes_per_s = self._config.tiers.disk.scrub_bytes_per_s
        if not bytes_per_s:
            return
        scrubber = self._scrubber = Scrubber(
            self.store.catalog, self.shell.rows, tier, self.mover, self.shell.feed, bytes_per_s
        )
        task = asyncio.get_running_loop().create_task(scrubber.run())
        self._stack.push_async_callback(_end, task)

    # ---- building

    def _build_tiers(self) -> tuple[list[str], list[Any]]:
        """Return the tiers that have bytes, hottest first."""
        tiers = self._config.tiers
        cuda = cuda_is_present()
        names: list[str] = []
        built: list[Tier] = []
        if tiers.device.bytes:
            names.append("device")
            emulated = EmulatedDeviceTier("device", tiers.device.bytes)
            built.append(CudaDeviceTier("device", "cuda:0") if cuda else emulated)
        names.append("host")
        built.append(HostTier("host", tiers.host.bytes, page_lock if cuda else None))
        if tiers.disk.bytes:
            names.append("disk")
            threads = -(-tiers.disk.io_threads // len(tiers.disk.directories))
            sums = {"always": True, "never": False, "auto": cuda}[tiers.disk.gpu_sums]
            disk = DiskTier(tiers.disk.directories, threads, sum_of if sums else None)
            rate = self._disk_bytes_per_s
            built.append(ThrottledTier(disk, rate) if rate else disk)
        return names, built

    def _remember(self, name: str, layout: LayoutSpec, region_slots: Sequence[int]) -> None:
        if self._index is None or self._disk is None or layout.fingerprint in self._remembered:
            return
        self._remembered.add(layout.fingerprint)
        self._index.add_namespace(NamespaceRecord(name, layout, region_slots[self._disk]))

    async def _recover(self) -> None:
        """Tell the store what the index remembers, and free the segments it does not."""
        if self._index is None or self._disk is None:
            return
        # Millions of objects are made here, none of them garbage: looking for that among them,
        # now or later, would take seconds.
        gc.disable()
        for record in self._index.namespaces():
            fingerprint = record.layout.fingerprint
            self._remembered.add(fingerprint)
            copies = starmap(ev.StoredCopy, self._index.copies(fingerprint))
            event = ev.Recovered(
                self._disk, record.name, record.layout, record.region_slots, copies
            )
            self.shell.feed(event)
            number = len(self.shell.rows) - 1
            space: Any = self.shell.space(number, self._disk)
            for region in space.regions() - set(self.store.room.spaces[number][self._disk].regions):
                await space.reclaim(region)
            held = self.store.catalog.held[number]
            log.info("namespace %s: %d blocks found on disk", record.name, held)
        gc.freeze()
        gc.enable()
        _trim_memory()

    async def _listen(self, mediums: list[str]) -> None:
        config = self._config
        entry = self.store.config.entry
        infos = [
            pb.TierInfo(name=tier.name, medium=medium, mapped=index <= entry)
            for index, (tier, medium) in enumerate(
                zip(self.store.config.tiers, mediums, strict=True)
            )
        ]
        facts = DaemonFacts(
            version=version("tierd"),
            boot=self._boot,
            pid=os.getpid(),
            started_ns=self._started_ns,
            listens=(),
            mediums=tuple(mediums),
        )
        status = self._status_of(facts)
        doubts = Doubts(self.shell.rows, self.mover, self.shell.feed)
        self._stack.callback(doubts.close)
        sessions = Sessions(self.shell, config.limits, infos, self._boot, status, doubts)
        server = self._server = grpc.aio.server(options=_GRPC_OPTIONS)
        add_TierdServicer_to_server(sessions, server)
        servicer = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        path = Path(config.listen.unix)
        _claim_socket(path)
        server.add_insecure_port(f"unix:{path}")
        self.listens.append(f"unix:{path}")
        if config.listen.tcp:
            host = config.listen.tcp.rpartition(":")[0]
            port = server.add_insecure_port(config.listen.tcp)
            self.listens.append(f"{host}:{port}")
        uids = frozenset(config.tenancy.allowed_uids)
        sessions.descriptors = DescriptorSocket(Path(f"{path}{DESCRIPTOR_SUFFIX}"), uids, sessions)
        self._stack.callback(sessions.descriptors.close)
        await server.start()
        await asyncio.to_thread(path.chmod, 0o666 if uids else 0o600)
        for name in ("", _SERVICE):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        if config.listen.http:
            runner = await serve_http(config.listen.http, status, lambda: self._ready)
            self._stack.push_async_callback(runner.cleanup)
            self.listens.append(f"http://{config.listen.http}")

    def _status_of(self, facts: DaemonFacts) -> Callable[[], pb.StatusReply]:
        def status() -> pb.StatusReply:
            routes = self.mover.routes
            uses = [
                TierUse(self._prober.cause(tier), self._prober.faults(tier), self.mover.wear[tier])
                for tier in range(len(self.store.config.tiers))
            ]
            reply = build_status(self.store, facts, uses, routes, monotonic_ns())
            reply.listens[:] = self.listens
            if self._scrubber is not None and self._disk is not None:
                reply.tiers[self._disk].bytes_scrubbed = self._scrubber.bytes_read
            return reply

        return status

    # ---- stopping

    async def _flush_records(self) -> None:
        """Forget evicted copies in the index even while nothing is written."""
        while True:
            await asyncio.sleep(_RECORDS_FLUSH_S)
            await self.mover.flush_records()

    async def _drain(self) -> None:
        """Write back what waits, until nothing does."""
        while True:
            self.shell.feed(ev.Tick())
            waiting = self._unwritten()
            await self.mover.idle()
            resting_ns = self.store.moves.next_wakeup_ns()
            if resting_ns is not None:
                # A write has failed, and is to be tried again, so often and no more.
                await asyncio.sleep((resting_ns - monotonic_ns()) / NS_PER_S)
            elif not waiting or self._unwritten() == waiting:
                break
        await self.mover.flush_records()

    def _unwritten(self) -> int:
        return sum(len(queue) for queue in self.store.room.queued)


def _leave_within(deadline_s: float) -> None:
    """End this process then at the latest, whatever it is in the middle of.

    A thread that waits for a disk cannot be ended, and Python waits for its threads. Nothing that
    was called durable is lost: that was synced before.
    """

    def leave() -> None:
        log.error("something does not end: left without waiting for it")
        os._exit(1)

    timer = threading.Timer(deadline_s, leave)
    timer.daemon = True
    timer.start()


def _death(die_at: str) -> Callable[[str], None]:
    """Return what ends this process as a crash would, at the wanted point of the write path."""
    wanted, _, number = die_at.partition(":")
    left = int(number or 1)

    def at_point(point: str) -> None:
        nonlocal left
        if point == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return at_point


def _remember_directories(index: Index, directories: Sequence[Path]) -> None:
    """Have the index know where its segments are, so that nobody judges it by a part of them."""
    known, own = index.directories(), identified(directories)
    for path in missing(known, directories):
        log.warning("%s is left out now: what is there is not served", path)
    if own != known:
        index.remember_directories(own)


def _store_config(config: Config, names: list[str]) -> control.StoreConfig:
    bytes_max = {
        "device": config.tiers.device.bytes,
        "host": config.tiers.host.bytes,
        "disk": config.tiers.disk.bytes,
    }
    entry = names.index("host")
    limits = config.limits
    return control.StoreConfig(
        tiers=tuple(
            control.TierConfig(
                name,
                bytes_max[name],
                config.tiers.region_bytes,
                mapped=index <= entry,
                header_bytes=_HEADER_BYTES.get(name, 0),
                write_bytes_per_day=config.tiers.disk.write_bytes_per_day if name == "disk" else 0,
                stripes=len(config.tiers.disk.directories) if name == "disk" else 1,
            )
            for index, name in enumerate(names)
        ),
        entry=entry,
        policies=_policies(config),
        limits=control.Limits(
            sessions_max=limits.sessions_max,
            leases_per_session_max=limits.leases_per_session_max,
            waiting_max=limits.waiting_fetches_max,
            slots_per_publish_max=limits.slots_per_publish_max,
        ),
        read_lease_ns=config.leases.read_ns,
        write_lease_ns=config.leases.write_ns,
        used_ratio_high=config.tiers.host.watermark_high_ratio,
        used_ratio_low=config.tiers.host.watermark_low_ratio,
    )


def _policies(config: Config) -> Policies:
    device = config.tiers.device
    by_hits = PromoteOnHit(device.promote_after)
    return Policies(
        eviction=registry.eviction(config.policies.eviction),
        admission=registry.admission(config.tiers.disk.admission),
        promotion=by_hits
        if device.promotion == "on_hit"
        else registry.promotion(device.promotion)(),
        prefetch=registry.prefetch(config.policies.prefetch),
    )


def _trim_memory() -> None:
    """Give free memory back to the kernel, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel `task`, and return when it has let go of everything."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _claim_socket(path: Path) -> None:
    """Make room for the unix socket, unless somebody answers on it.

    Raises:
        DirectoryInUse: somebody does.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # Left behind by a daemon that was killed.
            return
    raise DirectoryInUse(str(path), "a daemon that answers there")
