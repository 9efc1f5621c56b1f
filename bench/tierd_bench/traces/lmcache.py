"""LMCache agent trace: whole prompts and outputs as text, a call a line, a session a file.

    {"input": text, "output": text, "session_id": text, "timestamp": microseconds}

Prompts are what the engine was sent, so nothing is assumed about how they grew. Lines may stand
out of order, and the sessions of one folder ran against one clock.

Source: LMCache/lmcache-agent-trace.
"""

from collections.abc import Iterable, Iterator

from tierd_bench.traces.blocks import TEXT_BLOCK_TOKENS, TextBlocks
from tierd_bench.traces.documents import Document
from tierd_bench.traces.reader import ReadOptions
from tierd_bench.traces.records import read_lines
from tierd_bench.traces.requests import TraceRequest


def read(documents: Iterable[Document], options: ReadOptions) -> Iterator[tuple[int, TraceRequest]]:
    """Yield the calls of all documents in the order of time, so a folder is read to its end."""
    text = TextBlocks(options.tokenizer, options.block_tokens or TEXT_BLOCK_TOKENS)
    calls = [line for document in documents for line in read_lines(document)]
    calls.sort(key=lambda call: call.number("timestamp"))
    for call in calls:
        since_start_us = call.number("timestamp") - calls[0].number("timestamp")
        request = TraceRequest(
            call.text("session_id"),
            since_start_us / 1e6,
            text.of_text(call.text("input")),
            text.count(call.text("output", "")),
        )
        yield text.block_tokens, request
