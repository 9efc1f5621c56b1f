"""An engine as the server of LMCache sees one: paged KV, and the requests of a worker.

    python -m tests.lmcache.child URL SHAPE

Run by the environment that has LMCache; `tests.lmcache.servers` is the other end: one JSON line
in, one out. The worker is that of LMCache's own `bench server`, on the CPU, without an engine
around it.
"""

import json
import sys
from typing import Any, TextIO

from lmcache.cli.commands.bench.server_bench.client import RequestContext, ServerBenchClient
from lmcache.cli.commands.bench.server_bench.config import BenchConfig

from tests.lmcache.shapes import BLOCK_TOKENS, CHUNKS


class Worker:
    def __init__(self, url: str, shape: str) -> None:
        config = BenchConfig(
            rpc_url=url,
            http_url="",
            mode="cpu",
            transfer_mode="engine_driven",
            tp_size=1,
            use_mla=False,
            num_tokens=CHUNKS * BLOCK_TOKENS - 1,  # and one before them
            kvcache_shape_spec=shape,
            num_blocks=256,
            block_size=BLOCK_TOKENS,
        )
        self._client = ServerBenchClient(config, lambda line: _write(sys.stderr, line))
        self._client.start()
        self._asked = 0

    def store(self, sequence: int) -> dict[str, Any]:
        """Store all chunks of a sequence; return their checksums."""
        request = self._request(sequence)
        stored = self._client.store(request, 0, request.num_full_tokens)
        self._client.end_session(request)
        return {"ok": bool(stored and stored.succeeded), "sums": self._sums(request)}

    def load(self, sequence: int) -> dict[str, Any]:
        """Look a sequence up, and load what was found over zeros; return the checksums."""
        request = self._request(sequence)
        found = self._client.lookup(request)
        tokens = found.hit_chunks * request.chunk_size
        self._client.zero_destination(request, 0, request.num_full_tokens)
        loaded = self._client.retrieve(request, 0, tokens)
        self._client.end_session(request)
        ok = found.succeeded and (loaded is None or loaded.succeeded)
        return {"ok": ok, "chunks": found.hit_chunks, "sums": self._sums(request)}

    def close(self) -> dict[str, Any]:
        self._client.close()
        return {}

    def _request(self, sequence: int) -> RequestContext:
        self._asked += 1
        name = f"{sequence}-{self._asked}-{id(self)}"
        request = self._client.create_request(sequence, name, "test")
        assert request is not None
        return request

    def _sums(self, request: RequestContext) -> list[str]:
        return self._client.compute_checksums(request, 0, request.num_full_tokens) or []


def main(url: str, shape: str) -> None:
    worker = Worker(url, shape)
    _say({})
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        _say(getattr(worker, name)(*arguments))


def _say(answer: dict[str, Any]) -> None:
    _write(sys.stdout, json.dumps(answer))


def _write(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
