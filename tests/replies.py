"""A status as a busy daemon would give it, for tests of what shows one."""

from tierd.core.units import GiB, MiB
from tierd_proto.v1 import tierd_pb2 as pb


def busy_reply(seconds: int = 3700) -> pb.StatusReply:
    """Return the status of a daemon that has run, and served, for so long."""
    return pb.StatusReply(
        version="0.1.0",
        boot=bytes(range(16)),
        pid=4711,
        uptime_ns=seconds * 10**9,
        tiers=[
            pb.TierStatus(
                name="host",
                medium="shared memory",
                online=True,
                state="online",
                bytes_max=4 * GiB,
            ),
            pb.TierStatus(
                name="disk",
                medium="segments",
                online=False,
                state="offline",
                cause="[EIO] segment 3",
                faults=3,
                bytes_max=64 * GiB,
                bytes_lent=32 * GiB,
                bytes_used=16 * GiB,
                blocks=8192,
                evictions=7 * seconds,
                bytes_written=seconds * MiB,
            ),
        ],
        namespaces=[
            pb.NamespaceStatus(
                name="[tenant] a",
                model="llama",
                block_bytes=2 * MiB,
                block_tokens=16,
                blocks=8192,
                requests=seconds,
                tokens_asked=100 * seconds,
                tokens_hit=[70 * seconds, 20 * seconds],
                tokens_missed=10 * seconds,
                corrupt_blocks=2,
            )
        ],
        routes=[
            pb.RouteStatus(
                source="disk",
                target="host",
                blocks=50 * seconds,
                bytes=100 * seconds * MiB,
                busy_ns=seconds * 10**9 // 2,
                failed=1,
            )
        ],
        sessions=3,
        leases=12,
        leased_blocks=6250,
        waiting=1,
        listens=["unix:/run/tierd/tierd.sock"],
    )
