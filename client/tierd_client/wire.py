"""Between the client's values and protobuf messages."""

from tierd.core import errors
from tierd.core.layouts import LayoutSpec
from tierd_proto.v1 import tierd_pb2 as pb


def layout_to_wire(layout: LayoutSpec) -> pb.Layout:
    """Return a layout as it travels."""
    groups = [
        pb.LayerGroup(
            kind=group.kind,
            layers=group.layers,
            kv_heads=group.kv_heads,
            head_size=group.head_size,
            planes=group.planes,
            window_tokens=group.window_tokens,
            state_bytes=group.state_bytes,
        )
        for group in layout.groups
    ]
    return pb.Layout(
        model=layout.model,
        revision=layout.revision,
        weights_digest=layout.weights_digest,
        dtype=layout.dtype,
        block_tokens=layout.block_tokens,
        shards=layout.shards,
        order=layout.order,
        tenant=layout.tenant,
        salt=layout.salt,
        groups=groups,
    )


def error_from_wire(fault: pb.Fault) -> errors.TierdError:
    """Return the error that the daemon sent, as the class it was raised as there."""
    given = fault.fields
    if fault.kind == "Overloaded":
        return errors.Overloaded(given["queue"], int(given["retry_after_ns"]))
    if fault.kind == "LeaseExpired":
        return errors.LeaseExpired(int(given["lease"]))
    if fault.kind == "NamespaceConflict":
        return errors.NamespaceConflict(given["name"], tuple(given["differences"].split("\n")))
    if fault.kind == "InvalidRequest":
        return errors.InvalidRequest(given["field"], given["value"], given["remedy"])
    return errors.TierOffline("daemon", fault.message)
