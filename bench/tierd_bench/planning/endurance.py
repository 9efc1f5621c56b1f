"""How long a disk lives at a trace's write rate: what was missed is published, and written once."""

from dataclasses import dataclass
from typing import Final

from tierd_bench.planning.machine import DWPD, WARRANTY_YEARS, Setting

DAY_S: Final = 86400.0
_DAYS_A_YEAR: Final = 365.25
_TB: Final = 10**12


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A disk's use and its years, None if nothing is written.

    Units: `bytes_written` and `bytes_read` are of the trace; `endurance_bytes` may be written in
    all; `drive_writes_per_day` of its whole size.
    """

    bytes_written: int
    bytes_read: int
    seconds: float
    bytes_per_day: float
    drive_writes_per_day: float
    endurance_bytes: float
    years: float | None


@dataclass(frozen=True, slots=True)
class Endurance:
    """What was given: terabytes written, or drive writes per day over the warranty."""

    tbw: float | None = None
    dwpd: float | None = None

    def total_bytes(self, disk_bytes: int) -> float:
        """Return how many bytes a disk of such a size takes."""
        if self.tbw is not None:
            return self.tbw * _TB
        dwpd = DWPD if self.dwpd is None else self.dwpd
        return dwpd * disk_bytes * _DAYS_A_YEAR * WARRANTY_YEARS

    def settings(self) -> list[Setting]:
        """Return what the lifetime rests on."""
        amplified = Setting(
            "write amplification", "1", "headers and index, 1 % more at 2 MiB a block, left out"
        )
        if self.tbw is not None:
            return [Setting("endurance", f"{self.tbw:g} TB written"), amplified]
        origin = "given" if self.dwpd is not None else "the lower of two usual classes"
        dwpd = DWPD if self.dwpd is None else self.dwpd
        years = Setting("warranty", f"{WARRANTY_YEARS:g} years", "what drive writes a day refer to")
        return [Setting("endurance", f"{dwpd:g} drive writes a day", origin), years, amplified]


def lifetime(
    written: int, read: int, seconds: float, disk_bytes: int, endurance: Endurance
) -> Lifetime:
    """Return the lifetime of a disk of which so many bytes are written, and read, in `seconds`."""
    a_day = written * DAY_S / seconds
    total = endurance.total_bytes(disk_bytes)
    return Lifetime(
        bytes_written=written,
        bytes_read=read,
        seconds=seconds,
        bytes_per_day=a_day,
        drive_writes_per_day=a_day / disk_bytes,
        endurance_bytes=total,
        years=total / a_day / _DAYS_A_YEAR if a_day else None,
    )
