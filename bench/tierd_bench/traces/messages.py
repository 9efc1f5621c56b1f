"""Plain JSONL of chat calls, for traces of one's own.

    {"session": text, "messages": [{"role": ..., "content": ...}, ...],
     "timestamp": seconds, "tools": [...], "output": text or message, "output_tokens": count}

A line is one call; `messages` is its whole prompt, in the form of the OpenAI chat API (tool
calls, and content as text or as parts). All else may be missing: without `session` a line is a
session of its own, `timestamp` counts from any origin, `tools` stand before the messages, and
`output_tokens` goes before `output`. Calls of a session run in the order of lines.
"""

import json
from collections.abc import Iterable, Iterator

from tierd_bench.traces.blocks import TEXT_BLOCK_TOKENS, TextBlocks, render_answer, render_message
from tierd_bench.traces.documents import Document
from tierd_bench.traces.reader import ReadOptions
from tierd_bench.traces.records import Record, as_record, read_lines
from tierd_bench.traces.requests import TraceRequest


def read(documents: Iterable[Document], options: ReadOptions) -> Iterator[tuple[int, TraceRequest]]:
    """Yield the lines of each document."""
    text = TextBlocks(options.tokenizer, options.block_tokens or TEXT_BLOCK_TOKENS)
    for document in documents:
        start_s: float | None = None
        for index, call in enumerate(read_lines(document)):
            arrival_s: float | None = None
            if call.has("timestamp"):
                start_s = call.number("timestamp") if start_s is None else start_s
                arrival_s = max(0.0, call.number("timestamp") - start_s)
            session = f"{document.label}/{call.text('session', str(index))}"
            blocks = text.of_pieces(_prompt(call))
            request = TraceRequest(session, arrival_s, blocks, _output_tokens(call, text))
            yield text.block_tokens, request


def _prompt(call: Record) -> list[str]:
    tools = [f"<|tools|>\n{json.dumps(call.fields['tools'])}\n"] if call.has("tools") else []
    return tools + [render_message(message) for message in call.records("messages")]


def _output_tokens(call: Record, text: TextBlocks) -> int:
    if call.has("output_tokens"):
        return call.whole("output_tokens")
    output = call.fields.get("output")
    if output is None or isinstance(output, str):
        return text.count(output or "")
    return text.count(render_answer(as_record(output, f"{call.where}, output")))
