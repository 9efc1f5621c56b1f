"""When nothing but the storage NICs limits a cluster (section 1.4): formulas, no simulation."""

from dataclasses import dataclass

from tierd_bench.cluster.models import Hardware


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on P/D, prefill nodes over decode nodes, and what sets it."""

    resource: str
    least: float | None
    most: float | None


def bounds(hardware: Hardware) -> list[Bound]:
    """Return every limit on P/D within which both sides' storage NICs can be kept busy.

    A least above a most means that no ratio is free of bottlenecks.
    """
    storage = hardware.storage_nic
    g, s = hardware.gpus, storage / hardware.lane
    least = s / (g - s) if g > s else float("inf")
    return [
        Bound("compute NIC of prefill, in", least, None),
        Bound("compute NIC of decode, out", None, (g - 2 * s) / s),
        Bound("compute NIC of decode, in", None, (g - s) / (2 * s)),
        Bound("DRAM of decode", None, (hardware.dram / storage - 3) / 2),
    ]


def free_range(hardware: Hardware) -> tuple[float, float]:
    """Return the least and the most P/D that no resource forbids."""
    limits = bounds(hardware)
    return (
        max(limit.least for limit in limits if limit.least is not None),
        min(limit.most for limit in limits if limit.most is not None),
    )


def load_of(hardware: Hardware, prefill: int, decode: int) -> dict[str, float]:
    """Return how busy each resource is, 1 being all of it, while all storage NICs read.

    Hits alone, evenly spread: T_p = B s / (D g^2) and T_c = B s / (P g^2) for each pair of
    engines.
    """
    g, storage = hardware.gpus, hardware.storage_nic
    nic = storage / (g * hardware.lane)
    ratio = prefill / decode
    return {
        "compute NIC of prefill, out": 2 * nic,
        "compute NIC of prefill, in": nic * (1 + 1 / ratio),
        "compute NIC of decode, out": nic * (ratio + 2),
        "compute NIC of decode, in": nic * (2 * ratio + 1),
        "DRAM of prefill": 2 * storage / hardware.dram,
        "DRAM of decode": (3 + 2 * ratio) * storage / hardware.dram,
    }
