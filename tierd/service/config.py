"""Every setting of the daemon: its key in `tierd.toml`, its unit, its default and the reason.

Reading a file and explaining what is wrong with it is left to `config_file`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tierd.core.addresses import default_socket_path
from tierd.core.units import NS_PER_S, PAGE_BYTES, GiB, KiB, MiB
from tierd_policies import registry

# A socket's path holds 107 bytes; the descriptor socket beside it has a suffix.
SOCKET_PATH_BYTES_MAX = 100


def contradiction(key: str, wrong: str, remedy: str) -> PydanticCustomError:
    """Return the error for settings that are each fine, but not together."""
    context = {"key": key, "wrong": wrong, "remedy": remedy}
    return PydanticCustomError("contradiction", "{key}: {wrong}; {remedy}", context)


def _one_or_many(value: object) -> object:
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are no sizes")
    return value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"a daemon has no current directory to start from: write {path.resolve()}")
    return path


def _socket_path(path: str) -> str:
    _absolute(Path(path))
    if (length := len(os.fsencode(path))) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"{length} bytes long, of {SOCKET_PATH_BYTES_MAX} that a socket's path may have"
        )
    return path


def _host_and_port(address: str) -> str:
    if not address:
        return address
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError('neither "" (off) nor host:port, such as "127.0.0.1:7070"')
    return address


def _made_by(find: Callable[[str], object]) -> AfterValidator:
    """Return the check that `find` knows the policy of a name."""

    def check(name: str) -> str:
        find(name)
        return name

    return AfterValidator(check)


def _whole_slots(size: ByteSize) -> ByteSize:
    if size % PAGE_BYTES:
        raise ValueError("not a multiple of 4KiB, the unit of O_DIRECT")
    return size


Size = Annotated[ByteSize, BeforeValidator(_no_truth_value), Field(ge=0)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seconds = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1, strict=True)]
Address = Annotated[str, AfterValidator(_host_and_port)]
Directory = Annotated[Path, AfterValidator(_absolute)]


class Section(BaseModel):
    """A table of `tierd.toml`: read once, never edited, closed to unknown keys.

    The docstring of each is printed above its table by `tierd config`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Listen(Section):
    """Where clients, and whoever watches, reach the daemon."""

    unix: Annotated[str, AfterValidator(_socket_path)] = Field(
        default_factory=default_socket_path,
        description="Path of the socket for clients on this host. Under /run where that may be "
        "written, because a restart empties it; in the home of the user otherwise.",
    )
    tcp: Address = Field(
        default="",
        description='host:port for clients on other hosts; "" is off. Off, because whoever '
        "reaches it can read every namespace: there is no authentication beyond the network's.",
    )
    http: Address = Field(
        default="",
        description='host:port for metrics and health over HTTP; "" is off, because not every '
        "host is scraped. 127.0.0.1:9464 is the customary choice.",
    )


class DeviceTier(Section):
    """Spare memory of the GPU, shared by the engines on it; emulated where there is none."""

    bytes: Size = Field(
        default=ByteSize(0),
        description="Size; 0 is no such tier. 0, because GPU memory belongs to the engines "
        "unless somebody says that they can spare it.",
    )
    promotion: Annotated[str, _made_by(registry.promotion)] = Field(
        default="on_hit",
        description="Which blocks are copied here: on_hit, after promote_after hits; always; "
        "by_cost, when the hits to come pay for the move; never; or package.module:Class.",
    )
    promote_after: Count = Field(
        default=2,
        description="With on_hit: hits, after which a block of a colder tier is copied here. 2, so "
        "that one scan over old conversations does not turn the tier over.",
    )


class HostTier(Section):
    """Host memory, shared with the clients on this host."""

    bytes: Size = Field(
        default=ByteSize(4 * GiB),
        description="Size of the arenas, all namespaces together. 4GiB fits most hosts; give it "
        "what the host can spare, since every byte here is a read less from disk.",
    )
    watermark_high_ratio: Ratio = Field(
        default=0.95,
        description="Share of the slots in use at which eviction starts. 0.95 leaves a publish "
        "free slots to go on with while eviction works.",
    )
    watermark_low_ratio: Ratio = Field(
        default=0.90,
        description="Share of the slots in use at which eviction stops. 0.90, so that it runs "
        "in batches and not for each block.",
    )

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> Self:
        if self.watermark_low_ratio > self.watermark_high_ratio:
            raise contradiction(
                "tiers.host.watermark_low_ratio",
                f"above tiers.host.watermark_high_ratio, {self.watermark_high_ratio}",
                "lower it, so that eviction has somewhere to stop",
            )
        return self


class DiskTier(Section):
    """NVMe: what no longer fits host memory, and what outlives a restart."""

    bytes: Size = Field(
        default=ByteSize(0),
        description="Size of the segment files, all directories together, preallocated and "
        "never exceeded; 0 is no such tier. 0, because no directory is right for every host.",
    )
    directories: Annotated[tuple[Directory, ...], BeforeValidator(_one_or_many)] = Field(
        default=(),
        description="Absolute paths, one for each NVMe device; blocks are striped over them. "
        "Each belongs to one daemon at a time. Required where bytes is above 0.",
    )
    io_threads: Annotated[int, Field(ge=1, le=256, strict=True)] = Field(
        default=8,
        description="Threads that read and write, all directories together. A thread also verifies "
        "what it read, and 8 keep one device busy meanwhile; give it 8 more for each further one.",
    )
    scrub_bytes_per_s: Size = Field(
        default=ByteSize(8 * MiB),
        description="Bytes a second read in the background to find damaged blocks before a client "
        "does; 0 is off. 8MiB goes through 4 TiB in six days, and is no load for NVMe.",
    )
    write_bytes_per_day: Size = Field(
        default=ByteSize(0),
        description="Bytes a day written for no stronger reason than that they may be read again; "
        "what is to be durable counts, and is always written. 0 is no limit. An NVMe device rated "
        "for one drive write a day takes its own size.",
    )
    stall_s: Seconds = Field(
        default=5.0,
        description="Seconds after which a read or write without an answer is given up, and the "
        "tier taken to be offline until it answers a probe. 5 is far above any healthy device, "
        "and below the patience of whoever waits.",
    )
    gpu_sums: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether blocks are written with a checksum that a GPU computes, so that what "
        "it read from disk by itself need not come back to be verified. auto: where the daemon has "
        "a GPU; it takes 0.2 to 0.3 processor seconds a GB.",
    )
    admission: Annotated[str, _made_by(registry.admission)] = Field(
        default="always",
        description="Which blocks are written: always; second_touch and frequency, those used "
        "twice; endurance, those that promise most reads for what write_bytes_per_day allows; or "
        "package.module:Class. always suits agents, who come back; the others spare the device "
        "under API traffic, of which little is ever read again.",
    )

    @property
    def stall_ns(self) -> int:
        """Return `stall_s` in nanoseconds."""
        return int(self.stall_s * NS_PER_S)

    @model_validator(mode="after")
    def _has_a_place_and_a_size(self) -> Self:
        if self.bytes and not self.directories:
            raise contradiction(
                "tiers.disk.directories",
                "empty, while tiers.disk.bytes asks for a disk tier",
                'name a directory on the device, such as ["/var/lib/tierd"]',
            )
        if self.directories and "bytes" not in self.model_fields_set:
            raise contradiction(
                "tiers.disk.bytes",
                "left out, while tiers.disk.directories asks for a disk tier",
                "say how much the tier may use, or 0 for none",
            )
        if self.admission == "endurance" and not self.write_bytes_per_day:
            raise contradiction(
                "tiers.disk.write_bytes_per_day",
                'no limit, while tiers.disk.admission = "endurance" keeps within one',
                "say how much may be written a day, or admit always",
            )
        if len(set(self.directories)) < len(self.directories):
            raise contradiction(
                "tiers.disk.directories", "names one directory twice", "name each once"
            )
        return self


class Tiers(Section):
    """Where blocks are kept, hottest first."""

    region_bytes: Annotated[Size, Field(ge=PAGE_BYTES), AfterValidator(_whole_slots)] = Field(
        default=ByteSize(64 * MiB),
        description="Size of a region, the run of slots that a tier lends to a namespace. 64MiB "
        "holds tens of large blocks, and is little to give back when another needs it.",
    )
    device: DeviceTier = DeviceTier()
    host: HostTier = HostTier()
    disk: DiskTier = DiskTier()

    @model_validator(mode="after")
    def _each_holds_a_region(self) -> Self:
        shares = {
            "device": self.device.bytes,
            "host": self.host.bytes,
            "disk": self.disk.bytes // max(1, len(self.disk.directories)),
        }
        for name, share in shares.items():
            may_be_absent = name != "host"
            if share < self.region_bytes and not (may_be_absent and share == 0):
                raise contradiction(
                    f"tiers.{name}.bytes",
                    f"holds no region of tiers.region_bytes, {size_text(self.region_bytes)}"
                    + (", in each directory" if len(self.disk.directories) > 1 else ""),
                    "give the tier more, or make regions smaller",
                )
        return self


class Policies(Section):
    """Which policy decides."""

    eviction: Annotated[str, _made_by(registry.eviction)] = Field(
        default="chain_lru",
        description="Which blocks go first: the name of a policy, or package.module:Class of your "
        "own. chain_lru is the least recently used, and no block before those that continue it; "
        "agent traffic leaves little to gain over it.",
    )
    prefetch: Annotated[str, _made_by(registry.prefetch)] = Field(
        default="on_hint",
        description="What comes to host memory before it is asked for: on_hint, what clients ask "
        "for; next_turn, also paused conversations shortly before their next turn; "
        "queue_look_ahead, hints a few at a time, in their order; or package.module:Class. on_hint "
        "reads nothing in vain.",
    )


class Leases(Section):
    """How long the daemon keeps a promise to a client that says nothing more."""

    read_s: Seconds = Field(
        default=30.0,
        description="Seconds that fetched blocks stay in place without a release. 30 is far "
        "above any copy, and frees the slots of a client that hangs.",
    )
    write_s: Seconds = Field(
        default=60.0,
        description="Seconds that reserved slots stay a client's without a seal. 60, because a "
        "publish may wait for the engine's device.",
    )

    @property
    def read_ns(self) -> int:
        """Return `read_s` in nanoseconds."""
        return int(self.read_s * NS_PER_S)

    @property
    def write_ns(self) -> int:
        """Return `write_s` in nanoseconds."""
        return int(self.write_s * NS_PER_S)


class Limits(Section):
    """The end of every queue and table. What is above one is refused, and may be retried."""

    sessions_max: Count = Field(
        default=256,
        description="Clients connected at once; a further one is refused. 256 is more than the "
        "processes of a host with eight GPUs.",
    )
    leases_per_session_max: Count = Field(
        default=4096,
        description="Leases that one client holds at once; a further fetch misses. 4096 is more "
        "than the requests that an engine has in flight.",
    )
    keys_per_request_max: Count = Field(
        default=65536,
        description="Keys in one message; a longer one is refused. 65536 blocks of 16 tokens are "
        "a context of a million tokens.",
    )
    waiting_fetches_max: Count = Field(
        default=1024,
        description="Fetches waiting for the disk, all clients together; a further one gets what "
        "is in memory. 1024 keeps the wait below any useful deadline.",
    )
    slots_per_publish_max: Count = Field(
        default=8192,
        description="Slots granted to one reservation; the rest is not granted. 8192 blocks of "
        "2 MiB are 16 GiB, so one client cannot take a tier at a stroke.",
    )


class Shutdown(Section):
    """How the daemon stops."""

    deadline_s: Seconds = Field(
        default=10.0,
        description="Seconds after SIGTERM by which the daemon is gone. What was promised durable "
        "is; 10 is time for the rest of a write-back batch.",
    )

    @property
    def deadline_ns(self) -> int:
        """Return `deadline_s` in nanoseconds."""
        return int(self.deadline_s * NS_PER_S)


class Tenancy(Section):
    """Who may use the daemon."""

    allowed_uids: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = Field(
        default=(),
        description="User ids, besides the daemon's own, whose processes may open "
        "sessions on the unix socket. Empty: sharing a cache with a user is a decision.",
    )


class Log(Section):
    """What the daemon says."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least weight of the events logged. info tells of starts, stops and faults, "
        "and of no single request.",
    )


class Config(Section):
    """All settings, checked one by one and against each other."""

    listen: Listen = Field(default_factory=Listen)
    tiers: Tiers = Tiers()
    policies: Policies = Policies()
    leases: Leases = Leases()
    limits: Limits = Limits()
    shutdown: Shutdown = Shutdown()
    tenancy: Tenancy = Tenancy()
    log: Log = Log()


def size_text(size: int) -> str:
    """Return `size` bytes exactly, in the largest unit that gives a whole number: 64MiB."""
    for unit, unit_bytes in (("TiB", 1024 * GiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size and size % unit_bytes == 0:
            return f"{size // unit_bytes}{unit}"
    return str(size)
