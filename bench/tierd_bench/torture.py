"""Kill a daemon again and again while it works, and look whether it keeps its word.

    python -m tierd_bench.torture --kills 20 --seed 0

Writers publish chains and wait until they are durable; a reader fetches them. The daemon is
killed with SIGKILL, at a random instant or at a named point of its write path, and started
again. Every block that was acknowledged as durable must be there, and every byte of every block
that comes must be that of its key.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from tierd.core.keys import BlockKey, adopt_keys
from tierd.core.layouts import opaque_layout
from tierd.core.units import MiB
from tierd_bench.replay.content import BlockContent
from tierd_bench.replay.machine import current_commit
from tierd_client import Client, Namespace, connect
from tierd_client.splitting import Route

POINTS: Final = ("written", "synced", "recorded")
"""Where the daemon can be told to die: bytes written, bytes synced, index committed."""

_LAYOUT: Final = opaque_layout("torture", block_tokens=64, token_bytes=128)
_CHAIN_BLOCKS: Final = 24
_ROUND_S: Final = (0.05, 0.6)
_PATIENCE_S: Final = 20.0
_ROUTES: Final[tuple[Route, ...]] = ("auto", "staged", "direct")
_FULL_CHAINS: Final = 2000
"""Chains on disk after which the next round starts with an empty directory."""


@dataclass(slots=True)
class Tally:
    """What happened. `lost` and `corrupt` count blocks, and must be 0."""

    kills: int = 0
    at_points: int = 0
    durable_blocks: int = 0
    read_blocks: int = 0
    lost: int = 0
    corrupt: int = 0
    notes: list[str] = field(default_factory=list)


class Torture:
    """One directory, one daemon at a time, one client that outlives them all."""

    def __init__(self, place: Path, seed: int) -> None:
        self.tally = Tally()
        self._random = random.Random(seed)
        self._place = place
        self._address = str(place / "t.sock")
        self._content = BlockContent(_LAYOUT.part_bytes)
        self._durable: list[int] = []
        self._next_chain = 0
        self._lock = threading.Lock()

    def run(self, rounds: Iterator[int]) -> Tally:
        """Kill a daemon once for each of `rounds`, then look at all that is left."""
        epoch = 0
        for _ in rounds:
            if len(self._durable) > _FULL_CHAINS:
                self._look_at(list(self._durable), epoch)
                epoch += 1
                self._durable = []
            self._round(epoch)
        self._look_at(list(self._durable), epoch)
        return self.tally

    def _round(self, epoch: int) -> None:
        point = self._random.choice((*POINTS, None, None, None))
        die_at = f"{point}:{self._random.randint(1, 8)}" if point else ""
        with self._daemon(epoch, die_at) as (process, client):
            kv = client.open(_LAYOUT)
            recent = self._durable[-40:]
            sample = self._random.sample(self._durable, min(20, len(self._durable)))
            self._verify(kv, [*recent, *sample])
            stop = threading.Event()
            workers = [threading.Thread(target=self._write, args=(kv, stop)) for _ in range(2)]
            workers.append(threading.Thread(target=self._read, args=(kv, stop)))
            for worker in workers:
                worker.start()
            self._kill(process, at_point=bool(point))
            stop.set()
            for worker in workers:
                worker.join()
        self.tally.kills += 1
        self.tally.at_points += bool(point)

    def _kill(self, process: "subprocess.Popen[bytes]", *, at_point: bool) -> None:
        # A daemon that is to die at a point does so by itself, unless nothing gets that far.
        wait_s = _ROUND_S[1] * 2 if at_point else self._random.uniform(*_ROUND_S)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _look_at(self, chains: list[int], epoch: int) -> None:
        with self._daemon(epoch, "") as (process, client):
            self._verify(client.open(_LAYOUT), chains)
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE_S)

    def _write(self, kv: Namespace, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._lock:
                chain = self._next_chain
                self._next_chain += 1
            keys = _keys(chain)
            source = np.empty((len(keys), _LAYOUT.part_bytes), np.uint8)
            self._content.fill([memoryview(block.data) for block in source], keys)
            published = kv.publish(keys, source, wait_s=0.2, durable_s=2.0)
            if published.durable == len(keys):
                with self._lock:
                    self._durable.append(chain)
                    self.tally.durable_blocks += len(keys)

    def _read(self, kv: Namespace, stop: threading.Event) -> None:
        own = random.Random(self._next_chain)
        while not stop.is_set():
            self._fetch(kv, own.randrange(max(1, self._next_chain)))

    def _verify(self, kv: Namespace, chains: list[int]) -> None:
        """Look that durable chains are whole."""
        for chain in chains:
            found = self._fetch(kv, chain)
            if found < _CHAIN_BLOCKS:
                self.tally.lost += _CHAIN_BLOCKS - found
                self.tally.notes.append(f"chain {chain}: {found} of {_CHAIN_BLOCKS} blocks")

    def _fetch(self, kv: Namespace, chain: int) -> int:
        keys = _keys(chain)
        into = np.zeros((len(keys), _LAYOUT.part_bytes), np.uint8)
        route = _ROUTES[chain % len(_ROUTES)]
        blocks = kv.fetch(keys, into, deadline_s=_PATIENCE_S, route=route).blocks
        wrong = self._content.corrupt_pages(into[:blocks], keys[:blocks])
        with self._lock:
            self.tally.read_blocks += blocks
            self.tally.corrupt += len(wrong)
            self.tally.notes += [str(page) for page in wrong]
        return blocks

    @contextmanager
    def _daemon(
        self, epoch: int, die_at: str
    ) -> "Iterator[tuple[subprocess.Popen[bytes], Client]]":
        settings = {
            "listen.unix": self._address,
            "tiers.region_bytes": MiB,
            "tiers.host.bytes": 8 * MiB,
            "tiers.disk.bytes": 1024 * MiB,
            "tiers.disk.directories": self._place / f"disk-{epoch}",
        }
        command = [sys.executable, "-m", "tierd.cli", "serve", "--stop-with", str(os.getpid())]
        command += [f"--set={key}={value}" for key, value in settings.items()]
        if die_at:
            command += ["--die-at", die_at]
        log = (self._place / "log").open("ab")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with connect(self._address, wait_s=_PATIENCE_S) as client:
                yield process, client
        finally:
            process.kill()
            process.wait()
            log.close()


def _keys(chain: int) -> list[BlockKey]:
    return adopt_keys(_LAYOUT.root, [b"%d/%d" % (chain, index) for index in range(_CHAIN_BLOCKS)])


def main(
    kills: Annotated[int, typer.Option(help="How often to kill the daemon.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of the instants and points.")] = 0,
    append: Annotated[Path | None, typer.Option(help="Add the tally to this file.")] = None,
) -> None:
    """Kill a daemon again and again, and look whether it keeps its word."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tierd-torture-", dir="/var/tmp") as place:
        rounds = track(range(kills), "killing", console=console)
        tally = Torture(Path(place), seed).run(iter(rounds))
    row = {"figure": "torture", "commit": current_commit(), "seed": seed, **asdict(tally)}
    console.print_json(json.dumps(row))
    if append is not None:
        with append.open("a") as file:
            file.write(json.dumps(row) + "\n")
    if tally.lost or tally.corrupt:
        console.print("[red]the daemon did not keep its word[/]: keep the seed, and report it")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
