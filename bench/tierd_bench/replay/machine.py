"""The machine that figures were measured on, for beside them."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierd.core.units import KiB


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to compare figures with those of elsewhere."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str

    def as_json(self, load: float) -> dict[str, Any]:
        """Return what a record of results says of the machine, with its load at the time."""
        return {
            "cpu": self.processor,
            "cores": self.cores,
            "memory": self.memory_bytes,
            "kernel": self.system,
            "python": self.python,
            "load": load,
        }


def this_machine() -> Machine:
    """Return the machine that this runs on."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


def available_bytes() -> int:
    """Return how much memory can be taken now without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(kibibytes) * KiB


def current_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
