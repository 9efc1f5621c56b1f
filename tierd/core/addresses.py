"""Where a daemon listens: one syntax for the daemon, its clients and the command line."""

import os
from dataclasses import dataclass
from pathlib import Path

from tierd.core.errors import InvalidRequest

DESCRIPTOR_SUFFIX = ".fds"
"""What the path of the descriptor socket has more than that of the unix socket beside it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket's path, or a host and port; the other is empty."""

    path: str
    tcp: str

    @property
    def target(self) -> str:
        """The address as gRPC writes it."""
        return f"unix:{self.path}" if self.path else self.tcp


def parse_address(text: str) -> Address:
    """Read `unix:/path`, `/path` or `host:port`; empty is the default socket.

    Raises:
        InvalidRequest: it is none of these.
    """
    text = text or default_socket_path()
    if text.startswith("unix:"):
        return Address(text.removeprefix("unix:").removeprefix("//"), "")
    if text.startswith(("/", ".")):
        return Address(str(Path(text).absolute()), "")
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise InvalidRequest("address", repr(text), "write unix:/path, /path or host:port")
    return Address("", text)


def default_socket_path() -> str:
    """Return where the daemon listens, and its clients look, when nobody says otherwise."""
    system = Path("/run/tierd")
    nearest = system if system.exists() else system.parent
    if os.access(nearest, os.W_OK):
        return str(system / "tierd.sock")
    return str(Path.home() / ".local/state/tierd/tierd.sock")
