"""Clients that mean harm, and those that let go in the middle: nobody else may suffer for it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import pytest

from tests.integration.blocks import LAYOUT, chain, content, fetch, publish, room
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, eventually
from tierd.core.keys import join_keys
from tierd.core.units import MiB
from tierd_client import LayoutSpec, Namespace, Published, memory
from tierd_client.connection import Connection
from tierd_client.cuda_driver import CudaFault
from tierd_client.loader import LocalLoader
from tierd_client.memory import DaemonMemory, SegmentFile
from tierd_client.segments import SegmentReader
from tierd_client.wire import layout_to_wire
from tierd_proto.v1 import tierd_pb2 as pb
from tierd_proto.v1.tierd_pb2_grpc import TierdStub

KEYS = chain(1, 40)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """A daemon that has KEYS on disk, and nothing in memory."""
    daemon = start_daemon(16 * MiB, listen__tcp="127.0.0.1:0")
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        assert publish(kv, KEYS) == kv.persist(KEYS, PATIENCE_S) == len(KEYS)
    daemon.restart()
    return daemon


@pytest.fixture
def helper() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_client_that_lies_about_failed_reads_costs_nobody_a_block(daemon: Daemon) -> None:
    """Whoever held a lease could have all of its blocks thrown away, by calling them corrupt.

    A client's word ends its own prefix; the copy is looked at before it is given up.
    """
    with daemon.client() as client, daemon.client() as honest:
        connection = client.connection()
        assert connection is not None
        stream = connection.stream
        number = connection.open("", LAYOUT, PATIENCE_S).number
        wanted = pb.Fetch(namespace=number, keys=join_keys(KEYS))
        for index in reversed(range(len(KEYS))):
            lease = stream.ask(fetch=wanted).result(PATIENCE_S).fetch.lease
            stream.tell(read_failed=pb.ReadFailed(lease=lease, index=index))
            stream.release(lease)
        client.ping()
        assert fetch(honest.open(LAYOUT), KEYS) == len(KEYS)
        assert honest.status().namespaces[0].corrupt_blocks == 0


def test_a_layout_of_billions_of_layers_is_refused_at_once(daemon: Daemon) -> None:
    """The daemon made a list of the layers of whatever it was sent: a message of 40 bytes had it
    take all memory, and answer nobody any more."""
    wire = layout_to_wire(LAYOUT)
    wire.groups[0].layers = 2**32 - 1
    wire.groups[0].head_size = wire.block_tokens = 1
    with grpc.insecure_channel(daemon.tcp) as channel:
        messages = [
            pb.ClientMessage(request=1, hello=pb.Hello(protocol=1)),
            pb.ClientMessage(request=2, open=pb.Open(layout=wire)),
        ]
        replies = list(TierdStub(channel).Session(iter(messages), timeout=PATIENCE_S))
    assert replies[-1].fault.kind == "InvalidRequest"
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), KEYS) == len(KEYS)


def test_what_is_no_message_ends_only_its_own_stream(daemon: Daemon) -> None:
    """Bytes that do not parse ended the stream with a traceback in the daemon's log."""
    with grpc.insecure_channel(daemon.tcp) as channel:
        call: Any = channel.stream_stream("/tierd.v1.Tierd/Session", None, None)
        assert list(call(iter([b"\xff" * 40]), timeout=PATIENCE_S)) == []
    with daemon.client() as client:
        assert fetch(client.open(LAYOUT), KEYS) == len(KEYS)


def test_a_daemon_stopped_after_its_reply_holds_up_no_direct_read(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, helper: ThreadPoolExecutor
) -> None:
    """Reads that go straight into the caller's memory are waited for, and were counted as such
    while they still asked the daemon for the file: one that did not answer kept a fetch waiting
    far beyond its deadline."""
    monkeypatch.setattr(memory, "_TIMEOUT_S", 2 * PATIENCE_S)
    segment = DaemonMemory.segment
    stopped = Event()

    def stop_and_ask(self: DaemonMemory, *given: int) -> SegmentFile:
        if not stopped.is_set():
            stopped.set()
            os.kill(daemon.pid, signal.SIGSTOP)
        return segment(self, *given)

    with daemon.client() as client:
        kv = client.open(LAYOUT)
        monkeypatch.setattr(DaemonMemory, "segment", stop_and_ask)
        fetching = helper.submit(kv.fetch, KEYS, room(KEYS), deadline_s=1.5, route="direct")
        try:
            eventually(fetching.done, within_s=PATIENCE_S / 2)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert fetching.result().cut == "deadline"


def test_a_namespace_is_opened_within_the_deadline(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fetch of a namespace waited five seconds for a daemon that hung to open it."""
    waited: list[float] = []

    def open_late(self: Connection, name: str, layout: LayoutSpec, timeout_s: float) -> Any:
        waited.append(timeout_s)
        raise TimeoutError

    with daemon.client() as client:
        kv = client.open(LAYOUT)
        monkeypatch.setattr(Connection, "open", open_late)
        assert kv.fetch(KEYS, room(KEYS), deadline_s=0.5).blocks == 0
        assert kv.fetch(KEYS, room(KEYS), deadline_s=0.0).cut == "deadline"
    assert waited[0] <= 0.5
    assert waited[1] == 0.0


def test_a_publish_without_a_daemon_is_declined(daemon: Daemon) -> None:
    """A publisher was told that others hold what nobody had taken."""
    with daemon.client() as client:
        kv = client.open(LAYOUT)
        daemon.kill()
        eventually(lambda: client.tiers == ())
        assert kv.publish(KEYS, content(KEYS)) == Published(0, 0, len(KEYS))
        assert kv.publish(KEYS, content(KEYS)[30:], first=30) == Published(0, 0, 10)
    daemon.start()


def test_a_client_closed_in_the_middle_of_a_fetch_ends_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, helper: ThreadPoolExecutor
) -> None:
    """The threads of a closed client took no more work: a fetch in another thread raised an error
    of theirs, and one that came layer by layer never ended."""
    reading, closed = Event(), Event()
    piece, chunk = SegmentReader.read, SegmentReader.read_chunk

    def read_late(self: SegmentReader, *given: Any) -> Any:
        reading.set()
        assert closed.wait(PATIENCE_S)
        return piece(self, *given)

    def read_chunk_late(self: SegmentReader, *given: Any) -> Any:
        reading.set()
        assert closed.wait(PATIENCE_S)
        return chunk(self, *given)

    monkeypatch.setattr(SegmentReader, "read", read_late)
    monkeypatch.setattr(SegmentReader, "read_chunk", read_chunk_late)

    def layers(kv: Namespace) -> str:
        with kv.fetch_layers(KEYS, room(KEYS), deadline_s=PATIENCE_S) as fetched:
            list(fetched.layers())
        return fetched.result().cut

    def whole(kv: Namespace) -> str:
        return kv.fetch(KEYS, room(KEYS), deadline_s=PATIENCE_S, route="direct").cut

    for how in (whole, layers):
        reading.clear()
        closed.clear()
        with daemon.client() as client:
            fetching = helper.submit(how, client.open(LAYOUT))
            assert reading.wait(PATIENCE_S)
            client.close()
            closed.set()
            assert fetching.result(PATIENCE_S) in ("daemon away", "lease expired", "read failed")


def test_layers_are_closed_while_the_disk_is_silent(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, helper: ThreadPoolExecutor
) -> None:
    """A consumer that had enough waited, up to the deadline, for the disk to say something."""
    answer = Event()
    read_chunk = SegmentReader.read_chunk

    def silent(self: SegmentReader, *given: Any) -> Any:
        assert answer.wait(2 * PATIENCE_S)
        return read_chunk(self, *given)

    monkeypatch.setattr(SegmentReader, "read_chunk", silent)
    with daemon.client() as client:
        fetched = client.open(LAYOUT).fetch_layers(KEYS, room(KEYS), deadline_s=PATIENCE_S)
        closing = helper.submit(fetched.close)
        try:
            eventually(closing.done, within_s=PATIENCE_S / 2)
        finally:
            answer.set()
        eventually(lambda: client.status().leases == 0)


def test_a_gpu_that_refuses_a_copy_ends_the_prefix(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the GPU's driver in the middle of a fetch reached its caller, while other threads
    went on reading into memory that was the caller's again."""

    def refuse(*_: object) -> int:
        raise CudaFault("cuMemcpyAsync", 700)

    with daemon.client() as client:
        kv = client.open(LAYOUT)
        monkeypatch.setattr(LocalLoader, "load_ready", refuse)
        fetched = kv.fetch(KEYS, room(KEYS), route="staged")
        assert (fetched.blocks, fetched.cut) == (0, "read failed")
        eventually(lambda: client.status().leases == 0)
