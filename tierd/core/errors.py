"""Every fault that crosses a tierd boundary, and what its receiver should do.

    TierdError
    ├── Overloaded         a bounded queue or table was full  -> retry after `retry_after_ns`
    ├── TierOffline        a tier stopped answering           -> carry on with the others
    ├── LeaseExpired       the slots were taken back          -> do not read them; fetch again
    ├── CorruptSlot        bytes failed their checksum        -> treat the block as a miss
    ├── InvalidRequest     a field has a value it cannot have -> fix the caller
    ├── NamespaceConflict  a name is taken by another layout  -> use its layout, or another name
    ├── DirectoryInUse     another daemon owns the directory  -> stop it, or choose another
    ├── FormatMismatch     files of another format version    -> `remedy` says
    └── DaemonUnreachable  nobody answers at the address      -> start the daemon

A miss is absent on purpose: it is an ordinary answer, and comes back as a shorter prefix.
So are a full tier and a declined reservation: fewer slots. A bug of ours is an `assert`, and
stops the process.
"""

from dataclasses import dataclass


class TierdError(Exception):
    """Base of the faults below. Catch it at a boundary, or catch a leaf; nothing between."""


@dataclass(eq=False)
class Overloaded(TierdError):
    """A bounded queue was full. The request was not started."""

    queue: str
    retry_after_ns: int

    def __str__(self) -> str:
        return f"{self.queue} is full; retry in {self.retry_after_ns / 1e6:.1f} ms"


@dataclass(eq=False)
class TierOffline(TierdError):
    """A tier stopped answering. Its copies stay in the catalog, in case it returns."""

    tier: str
    cause: str

    def __str__(self) -> str:
        return f"{self.tier}: {self.cause}"


@dataclass(eq=False)
class LeaseExpired(TierdError):
    """A lease ran out. Its slots may already hold other blocks."""

    lease: int

    def __str__(self) -> str:
        return f"lease {self.lease} has expired; fetch again"


@dataclass(eq=False)
class CorruptSlot(TierdError):
    """A slot's bytes are not those that were written to it."""

    tier: str
    slot: int
    cause: str

    def __str__(self) -> str:
        return f"{self.tier}[{self.slot}]: {self.cause}"


@dataclass(eq=False)
class InvalidRequest(TierdError):
    """A field of a request has a value that it cannot have. Nothing was done."""

    field: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field} is {self.value}: {self.remedy}"


@dataclass(eq=False)
class NamespaceConflict(TierdError):
    """A namespace of this name exists with another layout. Nothing was opened."""

    name: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        listed = "; ".join(self.differences)
        return (
            f"namespace {self.name!r} has another layout: {listed}. Use its layout, or another name"
        )


@dataclass(eq=False)
class DirectoryInUse(TierdError):
    """Another daemon holds the directory's lock. Nothing was touched."""

    directory: str
    owner: str

    def __str__(self) -> str:
        return f"{self.directory} is in use by {self.owner}; stop it, or choose another directory"


@dataclass(eq=False)
class FormatMismatch(TierdError):
    """Files on disk are of a format that this version does not read. Nothing was touched."""

    path: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; {self.remedy}"


@dataclass(eq=False)
class DaemonUnreachable(TierdError):
    """No daemon answers at the address."""

    address: str
    cause: str

    def __str__(self) -> str:
        return f"no daemon at {self.address} ({self.cause}); start one with `tierd serve`"
