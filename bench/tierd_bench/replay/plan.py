"""A whole replay, from a trace to its figures: finds or starts the daemon, drives it, reports.

What is shown while it runs, and where figures are written, is left to the command.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierd.core.layouts import LayoutSpec
from tierd.core.units import format_bytes
from tierd_bench.replay.driver import Drive, Driven, Driver, Progress, replay_layout, users_that_fit
from tierd_bench.replay.embedded import (
    DaemonFailed,
    EmbeddedDaemon,
    EmbeddedSizes,
    embedded_daemon,
)
from tierd_bench.replay.machine import available_bytes, this_machine
from tierd_bench.replay.report import Report, Setting, make_report
from tierd_bench.replay.samples import Sampler
from tierd_bench.traces import Trace
from tierd_client import Client, connect

_MEMORY_SHARE = 2
"""Users fetch into at most one part in so many of the memory that the daemon leaves."""

_REACH_S = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that runs already; an empty address is the default socket."""

    address: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A daemon of the replay's own. `overrides` are settings on top of the sizes."""

    sizes: EmbeddedSizes = field(default_factory=EmbeddedSizes)
    directory: Path | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How to replay a trace, and against what. `config` goes into the report as it is."""

    bytes_per_token: int
    drive: Drive
    daemon: Running | Embedded
    version: str
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay's figures, and what they were made of. `failure` is why they are not complete."""

    report: Report
    driven: Driven
    sampler: Sampler
    failure: str


@dataclass(eq=False)
class TooLong(ValueError):
    """A request of the trace is too long to be fetched into this machine's memory."""

    needed_bytes: int
    allowed_bytes: int

    def __str__(self) -> str:
        needed, allowed = format_bytes(self.needed_bytes), format_bytes(self.allowed_bytes)
        return f"the longest request needs {needed} of memory, and may have {allowed}"


def replay_trace(trace: Trace, plan: Plan, tell: Callable[[Progress], None]) -> Replayed:
    """Replay `trace` and return its figures; `tell` is called while it runs.

    Raises:
        TooLong: nothing was started.
        DaemonUnreachable: nothing was replayed.
        DaemonFailed: the daemon of the replay's own did not start.
    """
    layout = replay_layout(trace, plan.bytes_per_token)
    memory_bytes = _memory_for_users(plan.daemon)
    users = users_that_fit(trace, layout, plan.drive.users, memory_bytes)
    if not users:
        longest = max(len(request.blocks) for request in trace.requests)
        raise TooLong(longest * layout.part_bytes, memory_bytes)
    drive = Drive(users, plan.drive.pace, plan.drive.terms)
    with ExitStack() as stack:
        own = _own_daemon(plan.daemon, layout, stack)
        address = plan.daemon.address if isinstance(plan.daemon, Running) else ""
        client = stack.enter_context(connect(own.address if own else address, wait_s=_REACH_S))
        return _drive(trace, layout, client, drive, plan, own, tell)


def _memory_for_users(daemon: Running | Embedded) -> int:
    promised = daemon.sizes.device + daemon.sizes.host if isinstance(daemon, Embedded) else 0
    return max(0, available_bytes() - promised) // _MEMORY_SHARE


def _own_daemon(
    daemon: Running | Embedded, layout: LayoutSpec, stack: ExitStack
) -> EmbeddedDaemon | None:
    if isinstance(daemon, Running):
        return None
    settings = [*daemon.sizes.settings(layout), *daemon.overrides]
    return stack.enter_context(embedded_daemon(settings, daemon.directory))


def _drive(
    trace: Trace,
    layout: LayoutSpec,
    client: Client,
    drive: Drive,
    plan: Plan,
    own: EmbeddedDaemon | None,
    tell: Callable[[Progress], None],
) -> Replayed:
    name = f"replay-{layout.fingerprint.hex()[:12]}"
    namespace = client.open(layout, name)
    before = client.status()
    started_ns = time.monotonic_ns()
    sampler = Sampler(client, lambda: time.monotonic_ns() - started_ns)
    sampler.sample()
    driver = Driver(trace, layout, namespace, drive, started_ns)
    driven = driver.run(sampler, tell)
    setting = Setting(
        bytes_per_token=plan.bytes_per_token,
        config=plan.config | {"users_asked": plan.drive.users} | _effective(drive, before),
        machine=this_machine(),
        version=plan.version,
        held_before=next((n.blocks for n in before.namespaces if n.name == name), 0),
    )
    failure = _failure(own)
    return Replayed(make_report(trace, driven, sampler, setting), driven, sampler, failure)


def _effective(drive: Drive, status: Any) -> dict[str, Any]:
    """Return the settings that only show once the replay is set up."""
    tiers = [f"{tier.name}: {format_bytes(tier.bytes_max)}, {tier.medium}" for tier in status.tiers]
    speed = drive.pace.speed
    return {
        "users": drive.users,
        "pace": f"{speed:g} x recorded" if math.isfinite(speed) else "as fast as possible",
        "loop": drive.pace.loop.value,
        "fetch_deadline_s": drive.terms.deadline_s,
        "route": drive.terms.route,
        "tiers": tiers,
        "daemon_version": status.version,
    }


def _failure(own: EmbeddedDaemon | None) -> str:
    try:
        if own is not None:
            own.check()
    except DaemonFailed as error:
        return str(error)
    return ""
