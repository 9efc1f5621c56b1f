"""Watches the tiers: turns faults into states, and probes what is not online until it is.

What the states mean for what is planned is left to the store, which is told of each change.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from time import monotonic_ns
from typing import Final

from tierd.control.events import TierFaulted, TierReadOnly, TierRecovered
from tierd.core.errors import TierOffline
from tierd.core.units import NS_PER_S
from tierd.tiers.base import Probe, Tier
from tierd.transfer.health import Access, HealthLimits, TierHealth, TierState

TierEvent = TierFaulted | TierReadOnly | TierRecovered

STALL_NS: Final = 5 * NS_PER_S
"""A medium that has not answered for so long will not answer in time for anybody."""

log = logging.getLogger("tierd.prober")


class Prober:
    """The health of `tiers`, each by its index. `report` is told when a state changes.

    `stall_ns`: a probe without an answer for so long has failed; the next waits for that one, so
    that no more than one is ever stuck. Concurrency: belongs to one event loop; `close` ends it.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        report: Callable[[TierEvent], None],
        stall_ns: int = STALL_NS,
        limits: HealthLimits | None = None,
    ) -> None:
        self._tiers = tiers
        self._report = report
        self._health = [TierHealth(limits or HealthLimits()) for _ in tiers]
        self._told: list[TierState] = ["online"] * len(tiers)
        self._watching: dict[int, asyncio.Task[None]] = {}
        self._stuck: dict[int, asyncio.Task[Probe]] = {}
        self.stall_ns = stall_ns

    def fault(self, tier: int, access: Access, place: Hashable, error: TierOffline) -> None:
        """Note that a tier refused something at `place`."""
        log.warning("tier fault: %s", error)
        self._health[tier].fault(access, place, error.cause, monotonic_ns())
        self._tell(tier)

    def stalled(self, tier: int, access: Access) -> None:
        """Note that a tier has not answered for `stall_ns`."""
        cause = f"a {access} has had no answer for {self.stall_ns / NS_PER_S:g} s"
        log.warning("tier fault: %s: %s", self._tiers[tier].name, cause)
        self._health[tier].stalled(access, cause, monotonic_ns())
        self._tell(tier)

    def check(self, tier: int, access: Access) -> None:
        """Return if it makes sense to ask the tier.

        Raises:
            TierOffline: it is in a state in which it is not asked.
        """
        health = self._health[tier]
        if health.state == "offline" or (health.state == "read_only" and access == "write"):
            raise TierOffline(self._tiers[tier].name, health.cause)

    def cause(self, tier: int) -> str:
        """Return why a tier is not online, or nothing."""
        return self._health[tier].cause

    def faults(self, tier: int) -> int:
        """Return how often a tier refused or did not answer, since the start."""
        return self._health[tier].faults

    def close(self) -> None:
        """Probe no more."""
        for task in [*self._watching.values(), *self._stuck.values()]:
            task.cancel()

    def _tell(self, tier: int) -> None:
        health = self._health[tier]
        if health.state == self._told[tier]:
            return
        self._told[tier] = health.state
        name = self._tiers[tier].name
        if health.state == "online":
            log.warning("%s is online again", name)
            self._report(TierRecovered(tier))
            return
        log.error("%s is %s: %s", name, health.state.replace("_", "-"), health.cause)
        event = TierFaulted if health.state == "offline" else TierReadOnly
        self._report(event(tier, health.cause))
        if tier not in self._watching:
            task = asyncio.get_running_loop().create_task(self._watch(tier))
            self._watching[tier] = task
            task.add_done_callback(lambda _: self._watching.pop(tier))

    async def _watch(self, tier: int) -> None:
        """Probe a tier until it is online."""
        health = self._health[tier]
        while (at_ns := health.next_probe_ns) is not None:
            await asyncio.sleep((at_ns - monotonic_ns()) / NS_PER_S)
            health.probed(await self._probe(tier), monotonic_ns())
            self._tell(tier)

    async def _probe(self, tier: int) -> Probe:
        probing = self._stuck.pop(tier, None)
        if probing is None:
            probing = asyncio.get_running_loop().create_task(self._tiers[tier].probe())
        self._stuck[tier] = probing
        done, _ = await asyncio.wait({probing}, timeout=self.stall_ns / NS_PER_S)
        if not done:
            cause = f"a probe has had no answer for {self.stall_ns / NS_PER_S:g} s"
            return Probe(read_fault=cause, write_fault=cause)
        return self._stuck.pop(tier).result()
