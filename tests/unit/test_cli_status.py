"""`tierd status` and `tierd top` show what a daemon answers, or say what to do next."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.replies import busy_reply
from tierd.cli.main import app
from tierd.cli.views import status_view
from tierd.core.units import GiB
from tierd.service.status import status_json
from tierd_proto.v1 import tierd_pb2 as pb
from tierd_proto.v1 import tierd_pb2_grpc as stubs


class BusyDaemon(stubs.TierdServicer):
    """Answers each request for the status as one second later than the last."""

    def __init__(self) -> None:
        self.seconds = 3700

    async def Status(self, request: pb.StatusRequest, context: object) -> pb.StatusReply:
        self.seconds += 1
        return busy_reply(self.seconds)


@asynccontextmanager
async def busy_daemon(socket: Path) -> AsyncIterator[str]:
    server = grpc.aio.server()
    stubs.add_TierdServicer_to_server(BusyDaemon(), server)
    address = f"unix:{socket}"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def drawn(reply: pb.StatusReply, before: pb.StatusReply | None = None) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(status_view(reply, before))
    return capture.get().splitlines()


def row(lines: list[str], first: str) -> list[str]:
    return next(line.split() for line in lines if line.startswith(first))


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments))


def test_view_of_what_happened_since_the_start() -> None:
    lines = drawn(busy_reply(10))
    assert "hit rate 90.0 %, 3 sessions, 12 leases on 6,250 blocks, 1 requests waiting" in lines
    assert " ".join(row(lines, "disk  segments")).endswith("64 GiB 8,192 0 70 10 MiB")
    assert " ".join(row(lines, "disk to host")) == "disk to host 500 1 1000 MiB 200 MiB/s"
    assert row(lines, "[tenant] a")[-1] == "2"
    assert "disk is offline: [EIO] segment 3" in lines


def test_view_of_what_happens_now() -> None:
    lines = drawn(busy_reply(110), busy_reply(100))
    assert row(lines, "asked") == ["asked", "11,000", "100.0", "%", "100", "100.0", "%"]
    assert row(lines, "hit  ") == ["hit", "9,900", "90.0", "%", "90", "90.0", "%"]


def test_rates_are_not_taken_across_a_restart() -> None:
    restarted = busy_reply(110)
    restarted.boot = bytes(16)
    assert drawn(restarted, busy_reply(100)) == drawn(restarted)


def test_what_is_not_written_is_said() -> None:
    reply = busy_reply(10)
    disk = reply.tiers[1]
    disk.state, disk.cause = "read-only", "no space left"
    disk.write_bytes_per_day, disk.write_budget_bytes = 64 * GiB, -GiB
    disk.blocks_unbudgeted, disk.blocks_given_up = 1234, 5
    lines = drawn(reply)
    assert "disk is read-only: no space left" in lines
    assert "5 blocks were not written to disk: that failed too often" in lines
    assert "disk may be written 64 GiB a day, 1 GiB owed; 1,234 blocks were not" in lines


def test_an_idle_daemon_can_be_drawn() -> None:
    host = pb.TierStatus(name="host", online=True, state="online")
    lines = drawn(pb.StatusReply(version="0.1.0", tiers=[host]))
    assert row(lines, "asked") == ["asked", "0", "-"]


async def test_status_as_a_table_and_as_json(tmp_path: Path) -> None:
    async with busy_daemon(tmp_path / "t.sock") as address:
        table = await run("status", "--daemon", address)
        answer = await run("status", "--daemon", address, "--json")
    assert "hit rate 90.0 %" in table.stdout
    assert json.loads(answer.stdout) == status_json(busy_reply(3702))


@pytest.mark.parametrize(("address", "code"), [("unix:/nowhere/t.sock", 1), ("nowhere", 2)])
async def test_nobody_there_ends_with_what_to_do_next(address: str, code: int) -> None:
    result = await run("status", "--daemon", address)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1].startswith("next: ")
    assert "--daemon" in result.stderr.splitlines()[-1]


async def test_top_needs_a_terminal(tmp_path: Path) -> None:
    result = await run("top", "--daemon", str(tmp_path / "t.sock"))
    assert result.exit_code == 2
    assert "tierd status --json" in result.stderr


async def test_top_shows_rates_until_q(tmp_path: Path) -> None:
    async with busy_daemon(tmp_path / "t.sock") as address:
        code, shown = await asyncio.to_thread(watch_until_rates, address)
    assert code == 0
    assert b"q quits" in shown


def watch_until_rates(address: str) -> tuple[int, bytes]:
    """Run `tierd top` on a terminal, press q once it shows rates, and return how it ended."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "tierd.cli", "top", "--interval", "0.1", "--daemon", address]
    shown = b""
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its) as top:
        os.close(its)
        while b"a second, now" not in shown:
            shown += os.read(ours, 65536)
        os.write(ours, b"q")
        # The terminal ends with the process; until then it must be read, or that would block.
        with suppress(OSError):
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    return top.returncode, shown
