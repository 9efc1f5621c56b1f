"""From paths to a trace: finds documents, picks their readers, takes the sample asked for."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Final

from tierd_bench.traces.documents import find_documents
from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.formats import Format, detect_format, format_named
from tierd_bench.traces.reader import DEFAULT_TOKENIZER, ReadOptions
from tierd_bench.traces.requests import Trace, TraceRequest, root_session

AUTO: Final = "auto"


def read_trace(
    paths: Sequence[Path | str],
    format: str = AUTO,
    block_tokens: int | None = None,
    sessions: int | None = None,
    requests: int | None = None,
    tokenizer: str = DEFAULT_TOKENIZER,
) -> Trace:
    """Return the trace that `paths` hold together, or its first sessions and requests.

    A path is a file, a folder or a tar archive; any of them may be packed with gzip or
    Zstandard. The documents of one folder and format are one recording; recordings follow one
    another in the trace, and each one's arrivals count from its own start. `block_tokens` None
    keeps the size of the trace's own blocks (text: 64); with N `sessions` only the first N in
    trace order are kept, sub-agents along with their parents. Reading stops at the last request
    wanted, but a format whose sessions are interleaved is read to its end when N are asked for.

    Raises:
        TraceError: with the file, the line or field, what was found and what to do.
    """
    for name, count in (
        ("block_tokens", block_tokens),
        ("sessions", sessions),
        ("requests", requests),
    ):
        if count is not None and count < 1:
            raise TraceError(f"{name} = {count}", "too small", "ask for 1 or more")
    found = [Path(path) for path in paths]
    options = ReadOptions(block_tokens, tokenizer)
    sampled = islice(_first_sessions(_read(found, format, options), sessions), requests)
    name = ", ".join(path.name for path in found)
    kept = []
    size: int | None = None
    for block_size, request in sampled:
        if size not in (None, block_size):
            remedy = "read them one by one, or ask for one block size"
            raise TraceError(name, f"blocks of {size} and of {block_size} tokens", remedy)
        size = block_size
        kept.append(request)
    if size is None:
        raise TraceError(name, "no request in it", "give a trace that has some")
    return Trace(name, size, tuple(kept))


_Read = tuple[Format, int, TraceRequest]


def _read(paths: Sequence[Path], format: str, options: ReadOptions) -> Iterator[_Read]:
    named = None if format == AUTO else format_named(format)

    # An empty document is a session that never called: nothing to read, and no fault.
    filled = (document for document in find_documents(paths) if document.head().strip())
    documents = ((named or detect_format(document), document) for document in filled)
    for (known, _), group in groupby(documents, key=lambda pair: (pair[0], pair[1].folder)):
        for block_tokens, request in known.read((document for _, document in group), options):
            yield known, block_tokens, request


def _first_sessions(read: Iterator[_Read], limit: int | None) -> Iterator[tuple[int, TraceRequest]]:
    chosen: set[str] = set()
    for known, block_tokens, request in read:
        session = root_session(request.session)
        if limit is not None and session not in chosen:
            if len(chosen) == limit:
                if known.session_by_session:
                    return
                continue
            chosen.add(session)
        yield block_tokens, request
