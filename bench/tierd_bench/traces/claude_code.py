"""kv-cache-tester JSON: one recorded coding-agent session a file, sub-agents nested in it.

`requests[]` has `t` (seconds from the start of its list's agent), `in` and `out` (tokens),
`hash_ids` of whole `block_size` blocks, and mostly `think_time`. An entry that has `requests`
itself is a sub-agent: its calls run beside its parent's, so they are a session of their own, but
their ids share the file's scope. When sessions began is not recorded.

Source: callanjfox/kv-cache-tester.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from tierd_bench.traces.blocks import reblock, scope_of
from tierd_bench.traces.documents import Document
from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.reader import ReadOptions
from tierd_bench.traces.records import Record, as_record, read_whole
from tierd_bench.traces.requests import SUB_SESSION, TraceRequest

BLOCK_TOKENS: Final = 64
_SCOPES: Final = ("local", "global")


def read(documents: Iterable[Document], options: ReadOptions) -> Iterator[tuple[int, TraceRequest]]:
    """Yield session after session; within one, parent and sub-agents in the order of time."""
    for document in documents:
        recording = as_record(read_whole(document), document.name)
        block_tokens = recording.whole("block_size", BLOCK_TOKENS)
        scope = _scope(recording, document)
        calls = list(_calls(recording, document.label, 0.0))
        calls.sort(key=lambda call: call[0])
        for _, session, gap_s, call in calls:
            ids = call.block_ids("hash_ids", scope)
            tokens = call.whole("in")
            blocks = reblock(ids, block_tokens, options.block_tokens, tokens, call.where)
            request = TraceRequest(session, None, blocks, call.whole("out"), gap_s, tokens)
            yield options.block_tokens or block_tokens, request


def _calls(
    agent: Record, session: str, agent_start_s: float
) -> Iterator[tuple[float, str, float, Record]]:
    """Yield (start in seconds, session, gap in seconds, call) of an agent and those in it."""
    end_s: float | None = None
    for call in agent.records("requests"):
        start_s = agent_start_s + call.number("t")
        if call.has("requests"):
            name = f"{session}{SUB_SESSION}{call.text('agent_id', 'agent')}"
            yield from _calls(call, name, start_s)
            continue
        waited_s = 0.0 if end_s is None else max(0.0, start_s - end_s)
        gap_s = 0.0 if end_s is None else call.number("think_time", waited_s)
        yield start_s, session, gap_s, call
        end_s = start_s + call.number("api_time", 0.0)


def _scope(recording: Record, document: Document) -> int:
    """Return what keeps the file's ids apart: its content, or nothing if ids are global."""
    scope = recording.text("hash_id_scope", "local")
    if scope not in _SCOPES:
        remedy = f"known scopes: {', '.join(_SCOPES)}"
        raise TraceError(recording.where, f"hash_id_scope is {scope!r}", remedy)
    if scope == "global":
        return 0
    # Reading it once more costs a tenth of writing the parsed form as text.
    with document.reading() as stream:
        return scope_of(stream.read())
