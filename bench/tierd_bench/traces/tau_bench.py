"""tau-bench JSON: customer-service trajectories as chat messages, all in one list.

Every assistant message was one call, and its prompt all messages before it. Neither times nor
tool definitions are recorded.

Source: the historical trajectories of sierra-research/tau-bench.
"""

from collections.abc import Iterable, Iterator

from tierd_bench.traces.blocks import TEXT_BLOCK_TOKENS, TextBlocks, render_answer, render_message
from tierd_bench.traces.documents import Document
from tierd_bench.traces.reader import ReadOptions
from tierd_bench.traces.records import Record, read_whole
from tierd_bench.traces.requests import TraceRequest


def read(documents: Iterable[Document], options: ReadOptions) -> Iterator[tuple[int, TraceRequest]]:
    """Yield trajectory after trajectory, each a session."""
    text = TextBlocks(options.tokenizer, options.block_tokens or TEXT_BLOCK_TOKENS)
    for document in documents:
        listed = Record(document.name, {"trajectories": read_whole(document)})
        for index, trajectory in enumerate(listed.records("trajectories")):
            task = trajectory.whole("task_id", index)
            trial = trajectory.whole("trial", 0)
            session = f"{document.label}/{index}-task{task}-trial{trial}"
            for request in conversation(session, trajectory.records("traj"), text):
                yield text.block_tokens, request


def conversation(
    session: str, messages: Iterable[Record], text: TextBlocks
) -> Iterator[TraceRequest]:
    """Yield a request for each assistant message, its prompt being everything before it."""
    prompt: list[str] = []
    for message in messages:
        if message.text("role") == "assistant":
            output_tokens = text.count(render_answer(message))
            yield TraceRequest(session, None, text.of_pieces(prompt), output_tokens)
        prompt.append(render_message(message))
