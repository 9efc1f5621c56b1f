"""Looks at start whether the file systems have room for the disk tier.

One that is full later is an ordinary fault of the tier, which says so and goes on.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from tierd.core.errors import InvalidRequest
from tierd.core.slots import parse_segment_name
from tierd.core.units import format_bytes

log = logging.getLogger("tierd.daemon")


def look_for_room(directories: Sequence[Path], bytes_max: int) -> None:
    """Warn if `bytes_max` of segments in `directories` will not fit what is free now.

    Raises:
        InvalidRequest: the file systems are smaller than that, were they empty.
        OSError: a directory cannot be read.
    """
    # Directories on one file system share its room.
    systems = {each.stat().st_dev: os.statvfs(each) for each in directories}.values()
    whole = sum(system.f_blocks * system.f_frsize for system in systems)
    free = sum(system.f_bavail * system.f_frsize for system in systems)
    where = ", ".join(map(str, directories))
    if bytes_max > whole:
        raise InvalidRequest(
            "tiers.disk.bytes",
            format_bytes(bytes_max),
            f"{where} has {format_bytes(whole)} in all; lower it, or name larger devices",
        )
    still = bytes_max - sum(map(_segment_bytes, directories))
    if still > free:
        log.warning(
            "tiers.disk.bytes is %s, and %s has room for %s less: blocks beyond that will not be "
            "written",
            format_bytes(bytes_max),
            where,
            format_bytes(still - free),
        )


def _segment_bytes(directory: Path) -> int:
    with os.scandir(directory) as entries:
        segments = [entry for entry in entries if parse_segment_name(entry.name)]
    return sum(entry.stat().st_blocks * 512 for entry in segments)
