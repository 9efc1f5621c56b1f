"""A stand-in for a server: speaks the part of vLLM's completions that `ServerEngine` needs.

It computes with a real model, and remembers which prompts it saw, as an engine's own prefix cache
would. What to do wrong it is told.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import torch

from tests.engines.tiny_models import BLOCK_TOKENS

Wrong = Literal["", "refuses", "breaks off", "tells no tokens", "says an error"]


class CompletionsServer(ThreadingHTTPServer):
    """Serves one model on a port of its own. `wrong` is what it does wrong from now on."""

    daemon_threads = True

    def __init__(self, model: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.wrong: Wrong = ""
        self.requests: list[dict[str, Any]] = []
        self._seen: set[tuple[int, ...]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def cached(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of `prompt` were seen before, in whole blocks, and see it."""
        ends = range(BLOCK_TOKENS, len(prompt), BLOCK_TOKENS)
        blocks = [tuple(prompt[:end]) for end in ends]
        held = sum(block in self._seen for block in blocks)
        self._seen.update(blocks)
        return held * BLOCK_TOKENS

    @torch.no_grad()
    def next_token(self, tokens: list[int], allowed: Sequence[int]) -> int:
        logits = self.model(torch.tensor([tokens])).logits[0, -1]
        return max(allowed or range(len(logits)), key=lambda token: float(logits[token]))


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        if self.server.wrong == "refuses":
            self.send_error(400, "the prompt is too long")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in self._chunks(body):
            data = f"data: {json.dumps(chunk)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if self.server.wrong == "breaks off":
                self.close_connection = True
                return
        self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self.server.wrong == "says an error":
            yield {"error": {"message": "engine dead"}}
        prompt = list(body["prompt"])
        cached = self.server.cached(prompt)
        for _ in range(body["max_tokens"]):
            token = self.server.next_token(prompt, body.get("allowed_token_ids") or ())
            prompt.append(token)
            told = None if self.server.wrong == "tells no tokens" else [token]
            yield {"choices": [{"text": "x", "token_ids": told}], "usage": None}
            if token in body["stop_token_ids"]:
                break
        yield {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": cached}}}

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def completions_server(model: Any) -> Iterator[CompletionsServer]:
    """Run one for the length of the block."""
    with CompletionsServer(model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
