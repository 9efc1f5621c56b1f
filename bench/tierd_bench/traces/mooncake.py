"""Mooncake JSONL: a request a line, its prompt as ids of prefix blocks.

    {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}

Blocks have 512 tokens, and the last one may be only partly full: it counts, as in the published
figures. Lines have no sessions, so each request is one of its own. tierd's generated traces are
the same with more fields, all optional: `session`, `block_size` (tokens) and `gap_ms` (think or
tool time before the request); their `after` says what the gap was and is for people.

Source: the trace release beside Mooncake (FAST'25).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from tierd_bench.traces.blocks import reblock, scope_of
from tierd_bench.traces.documents import Document
from tierd_bench.traces.reader import ReadOptions
from tierd_bench.traces.records import Record, read_lines
from tierd_bench.traces.requests import TraceRequest

BLOCK_TOKENS: Final = 512


def read(documents: Iterable[Document], options: ReadOptions) -> Iterator[tuple[int, TraceRequest]]:
    """Yield the lines of each document; ids of two documents never meet."""
    for document in documents:
        scope: int | None = None
        start_ms = 0.0
        for index, line in enumerate(read_lines(document)):
            if scope is None:
                # A name and a first line tell two traces apart, and reading stays one pass.
                scope = scope_of(f"{document.stem} {line.fields}".encode())
                start_ms = line.number("timestamp")
            session = line.text("session", str(index))
            arrival_s = max(0.0, line.number("timestamp") - start_ms) / 1e3
            yield _request(line, f"{document.label}/{session}", arrival_s, scope, options)


def _request(
    line: Record, session: str, arrival_s: float, scope: int, options: ReadOptions
) -> tuple[int, TraceRequest]:
    have = line.whole("block_size", BLOCK_TOKENS)
    ids = line.block_ids("hash_ids", scope)
    prompt_tokens = line.whole("input_length")
    blocks = reblock(ids, have, options.block_tokens, prompt_tokens, line.where)
    request = TraceRequest(
        session,
        arrival_s,
        blocks,
        line.whole("output_length"),
        line.number("gap_ms", 0.0) / 1e3,
        prompt_tokens,
    )
    return options.block_tokens or have, request
