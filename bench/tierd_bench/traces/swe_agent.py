"""SWE-agent .traj: one trajectory a file, as the messages that the agent kept.

Where a step recorded its `query`, that is the prompt, word for word. Otherwise prompts are
rebuilt from `history`: every assistant message was a call, and what came before it the prompt.
If the recorded configuration kept only the last n observations, older ones are cut from each
prompt just as the agent did, because such a history is not append-only. No times are recorded.

Source: SWE-agent's trajectory format and its `last_n_observations` history processor.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from tierd_bench.traces.blocks import TEXT_BLOCK_TOKENS, TextBlocks, render_answer, render_message
from tierd_bench.traces.documents import Document
from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.reader import ReadOptions
from tierd_bench.traces.records import Record, as_record, read_whole
from tierd_bench.traces.requests import TraceRequest


def read(documents: Iterable[Document], options: ReadOptions) -> Iterator[tuple[int, TraceRequest]]:
    """Yield trajectory after trajectory, each a session."""
    text = TextBlocks(options.tokenizer, options.block_tokens or TEXT_BLOCK_TOKENS)
    for document in documents:
        trajectory = as_record(read_whole(document), document.name)
        calls = _asked(trajectory) if _recorded_queries(trajectory) else _rebuilt(trajectory)
        for prompt, answer in calls:
            blocks = text.of_pieces(prompt)
            request = TraceRequest(document.label, None, blocks, text.count(answer))
            yield text.block_tokens, request


def _recorded_queries(trajectory: Record) -> bool:
    steps = trajectory.records("trajectory") if trajectory.has("trajectory") else []
    return bool(steps) and all(step.has("query") for step in steps)


def _asked(trajectory: Record) -> Iterator[tuple[list[str], str]]:
    for step in trajectory.records("trajectory"):
        prompt = [render_message(message) for message in step.records("query")]
        yield prompt, step.text("response", "")


def _rebuilt(trajectory: Record) -> Iterator[tuple[list[str], str]]:
    history = trajectory.records("history")
    kept = _observations_kept(trajectory)
    for at, message in enumerate(history):
        # A demonstration is part of the prompt, but nobody generated it in this session.
        if message.text("role") == "assistant" and not message.has("is_demo"):
            yield _prompt(history[:at], kept), render_answer(message)


def _prompt(messages: Sequence[Record], kept: int | None) -> list[str]:
    """Return the messages as text, all but the last `kept` observations shortened to a line."""
    observations = [at for at, message in enumerate(messages) if _is_observation(message)]
    # The first observation states the task, and stays.
    cut = set() if kept is None else set(observations[1 : max(1, len(observations) - kept)])
    return [
        _shortened(message) if at in cut else render_message(message)
        for at, message in enumerate(messages)
    ]


def _is_observation(message: Record) -> bool:
    return message.text("message_type", "") == "observation" and not message.has("is_demo")


def _shortened(message: Record) -> str:
    lines = len(render_answer(message).splitlines())
    shown = {
        "role": message.text("role"),
        "content": f"Old environment output: ({lines} lines omitted)",
    }
    return render_message(Record(message.where, shown))


def _observations_kept(trajectory: Record) -> int | None:
    """Return n if the agent showed its model only the last n observations, else None."""
    for processor in _history_processors(trajectory):
        if processor.text("type", "") == "last_n_observations":
            return processor.whole("n")
    return None


def _history_processors(trajectory: Record) -> Iterable[Record]:
    if not trajectory.has("replay_config"):
        return []
    value = trajectory.fields["replay_config"]
    where = f"{trajectory.where}, replay_config"
    try:
        config = as_record(json.loads(value) if isinstance(value, str) else value, where)
    except json.JSONDecodeError as fault:
        raise TraceError(where, f"not JSON: {fault}", "check that the file is whole") from fault
    agent = as_record(config.fields.get("agent") or {}, f"{where}, agent")
    if agent.has("history_processors"):
        return agent.records("history_processors")
    if agent.has("history_processor"):
        return [as_record(agent.fields["history_processor"], f"{where}, history_processor")]
    return []
