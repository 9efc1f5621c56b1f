"""Whether a tier can be read and written, as its faults and its probes tell. Pure: time is given.

    online ──writes fail──> read_only ──reads fail──> offline
       └──────────────────reads fail────────────────────┘
    and back, as far as a probe finds, however far that is

What counts is that the medium refused or did not answer. Wrong bytes do not: they are a fault of
one slot, and are dealt with there.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from tierd.core.units import NS_PER_S
from tierd.tiers.base import Probe

Access = Literal["read", "write"]
TierState = Literal["online", "read_only", "offline"]


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """`faults_max` faults within `window_ns` degrade a tier: fewer are bad luck.

    It is probed `backoff_min_ns` later, and then after twice as long each time, up to
    `backoff_max_ns`. One that fails again within `calm_ns` of its return goes on from there, so
    that a tier which answers probes and little else is left alone more and more.
    """

    faults_max: int = 3
    window_ns: int = 10 * NS_PER_S
    backoff_min_ns: int = NS_PER_S // 4
    backoff_max_ns: int = 30 * NS_PER_S
    calm_ns: int = 60 * NS_PER_S


class TierHealth:
    """The state of one tier. `cause` says why it is not online; `faults` counts all there were."""

    def __init__(self, limits: HealthLimits) -> None:
        self._limits = limits
        self._recent: dict[Access, deque[tuple[int, Hashable]]] = {
            "read": deque(maxlen=limits.faults_max),
            "write": deque(maxlen=limits.faults_max),
        }
        self._backoff_ns = limits.backoff_min_ns
        self._calm_from_ns: int | None = None
        self.state: TierState = "online"
        self.cause = ""
        self.faults = 0
        self.next_probe_ns: int | None = None

    def fault(self, access: Access, place: Hashable, cause: str, now_ns: int) -> None:
        """Note that the medium refused.

        One `place` counts once: a bad sector that is asked for again and again takes no tier down.
        """
        self.faults += 1
        recent = self._recent[access]
        for fault in [fault for fault in recent if fault[1] == place]:
            recent.remove(fault)
        recent.append((now_ns, place))
        is_full = len(recent) == self._limits.faults_max
        if is_full and now_ns - recent[0][0] <= self._limits.window_ns:
            self._degrade(access, cause, now_ns)

    def stalled(self, access: Access, cause: str, now_ns: int) -> None:
        """Note that the medium did not answer. Once is enough: who waits for it, waits too long."""
        self.faults += 1
        self._degrade(access, cause, now_ns)

    def probed(self, probe: Probe, now_ns: int) -> None:
        """Believe what a probe found."""
        assert self.state != "online"
        self._backoff_ns = min(2 * self._backoff_ns, self._limits.backoff_max_ns)
        self.next_probe_ns = now_ns + self._backoff_ns
        if probe.read_fault is not None:
            self.state, self.cause = "offline", probe.read_fault
        elif probe.write_fault is not None:
            self.state, self.cause = "read_only", probe.write_fault
        else:
            self.state, self.cause = "online", ""
            self.next_probe_ns = None
            self._calm_from_ns = now_ns + self._limits.calm_ns
            for recent in self._recent.values():
                recent.clear()

    def _degrade(self, access: Access, cause: str, now_ns: int) -> None:
        state: TierState = "offline" if access == "read" else "read_only"
        if self.state == "offline" or self.state == state:
            return
        if self.state == "online":
            if self._calm_from_ns is not None and now_ns >= self._calm_from_ns:
                self._backoff_ns = self._limits.backoff_min_ns
            self.next_probe_ns = now_ns + self._backoff_ns
        self.state, self.cause = state, cause
