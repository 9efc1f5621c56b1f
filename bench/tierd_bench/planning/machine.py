"""How fast a machine computes and loads, and what was assumed about it because nobody said.

One request at a time: what requests side by side take from each other is left to
`tierd simulate`, which has queues.
"""

from dataclasses import dataclass
from typing import Final

from tierd_bench.planning.architecture import Architecture
from tierd_bench.simulate.media import DISK, HOST, MediumSpec
from tierd_bench.simulate.prefill import Prefill, PrefillRate

TFLOPS: Final = 989.0
UTILISATION: Final = 0.5
WARRANTY_YEARS: Final = 5.0
DWPD: Final = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """A figure that the answers rest on. `origin` is `given`, or says why it was assumed."""

    name: str
    value: str
    origin: str = "given"

    @property
    def is_assumed(self) -> bool:
        """Whether nobody gave it."""
        return self.origin != "given"


@dataclass(frozen=True, slots=True)
class Computing:
    """Prefill by the FLOPs of an architecture, over those that its GPUs reach."""

    architecture: Architecture
    flops_per_s: float

    def seconds(self, cached: int, new: int) -> float:
        """Return the time for `new` tokens that follow `cached` ones."""
        return self.architecture.prefill_flops(new, cached) / self.flops_per_s


@dataclass(frozen=True, slots=True)
class Link:
    """The way of bytes from a tier into the engine: a wait, then a rate."""

    tier: str
    bytes_per_s: float
    latency_s: float

    def seconds(self, size: float) -> float:
        """Return the time that `size` bytes take; none take none."""
        return self.latency_s + size / self.bytes_per_s if size else 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that prefills, with the links to its tiers, hottest first."""

    prefill: Prefill
    host: Link
    disk: Link


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was given of a machine's speed; None is for the machine assumed here."""

    tflops: float | None = None
    utilisation: float | None = None
    tokens_per_s: float | None = None
    host_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None


def machine_of(
    speeds: Speeds, architecture: Architecture, gpus: int
) -> tuple[Machine, list[Setting]]:
    """Return the machine, and what it rests on."""
    prefill, settings = _prefill(speeds, architecture, gpus)
    # Each rank copies its own part; what is read from disk comes from the same devices.
    host = _link("host", speeds.host_bytes_per_s, HOST, gpus)
    disk = _link("disk", speeds.disk_bytes_per_s, DISK, 1)
    settings += [
        _rate(
            "host bandwidth",
            host,
            speeds.host_bytes_per_s,
            "each rank copies out of shared memory",
        ),
        _rate("disk bandwidth", disk, speeds.disk_bytes_per_s, "one PCIe 4 NVMe device"),
        Setting("host latency", f"{HOST.latency_s * 1e6:.3g} us", "as `tierd simulate` has it"),
        Setting("disk latency", f"{DISK.latency_s * 1e6:.3g} us", "as `tierd simulate` has it"),
    ]
    return Machine(prefill, host, disk), settings


def _prefill(
    speeds: Speeds, architecture: Architecture, gpus: int
) -> tuple[Prefill, list[Setting]]:
    if speeds.tokens_per_s is not None:
        rate = f"{speeds.tokens_per_s:,.0f} tokens/s"
        why = "the same at every length, though attention makes long prompts slower"
        return PrefillRate(speeds.tokens_per_s), [
            Setting("prefill", rate),
            Setting("prefill at other lengths", rate, why),
        ]
    tflops = TFLOPS if speeds.tflops is None else speeds.tflops
    share = UTILISATION if speeds.utilisation is None else speeds.utilisation
    peak = "given" if speeds.tflops is not None else "an H100 SXM in dense bf16, its data sheet"
    used = "given" if speeds.utilisation is not None else "what large prefills reach; measure yours"
    return Computing(architecture, tflops * 1e12 * share * gpus), [
        Setting("peak of a GPU", f"{tflops:g} TFLOP/s", peak),
        Setting("utilisation in prefill", f"{100 * share:g} %", used),
    ]


def _link(tier: str, given: float | None, usual: MediumSpec, readers: int) -> Link:
    return Link(tier, given or readers * usual.read_bytes_per_s, usual.latency_s)


def _rate(name: str, link: Link, given: float | None, why: str) -> Setting:
    origin = why if given is None else "given"
    return Setting(name, f"{link.bytes_per_s / 1e9:.3g} GB/s", origin)
