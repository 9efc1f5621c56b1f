"""How commands ask a running daemon for its status, and what they say when nobody answers."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from tierd.cli.console import fail, refuse
from tierd.core.addresses import parse_address
from tierd.core.errors import DaemonUnreachable, InvalidRequest

if TYPE_CHECKING:
    from tierd_proto.v1 import tierd_pb2 as pb

_ANSWER_S_MAX = 5.0

DaemonOption = Annotated[
    str,
    typer.Option(
        "--daemon",
        metavar="ADDRESS",
        help="unix:/path, /path or host:port; the default socket if left out.",
        show_default=False,
    ),
]


def status_or_end(address: str) -> "pb.StatusReply":
    """Return the status of the daemon at `address`, or end the command with what to do next."""
    try:
        return fetch_status(address)
    except InvalidRequest as error:
        refuse(str(error), "correct --daemon; nothing was asked")
    except DaemonUnreachable as error:
        fail(str(error), "start the daemon, or say with --daemon where it listens")


def fetch_status(address: str) -> "pb.StatusReply":
    """Return the status of the daemon at `address`; empty is the default socket.

    Raises:
        DaemonUnreachable: no daemon answers there.
        InvalidRequest: it is no address.
    """
    # gRPC and the wire take a while to import: other commands do without.
    import grpc

    from tierd_proto.v1 import tierd_pb2 as pb
    from tierd_proto.v1 import tierd_pb2_grpc as stubs

    target = parse_address(address).target
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply: pb.StatusReply = stubs.TierdStub(channel).Status(
                pb.StatusRequest(), timeout=_ANSWER_S_MAX
            )
        except grpc.RpcError as error:
            cause = cast(grpc.Call, error).details()
            raise DaemonUnreachable(target, str(cause)) from error
    return reply
