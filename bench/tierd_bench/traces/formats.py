"""The known trace formats, and how to tell which one a document has."""

import re
from dataclasses import dataclass
from typing import Final

from tierd_bench.traces import claude_code, lmcache, messages, mooncake, swe_agent, tau_bench
from tierd_bench.traces.documents import Document
from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.reader import Reader


@dataclass(frozen=True, slots=True)
class Format:
    """One format. `keys` are field names that its documents, and no other's, begin with."""

    name: str
    keys: frozenset[str]
    read: Reader
    session_by_session: bool = False
    """Whether a session's requests stand together, so that reading can stop after the last."""


FORMATS: Final = (
    Format("mooncake", frozenset({"hash_ids", "input_length"}), mooncake.read),
    Format(
        "claude-code",
        frozenset({"hash_ids", "requests"}),
        claude_code.read,
        session_by_session=True,
    ),
    Format("lmcache", frozenset({"input", "session_id", "timestamp"}), lmcache.read),
    Format("tau-bench", frozenset({"task_id", "traj"}), tau_bench.read, session_by_session=True),
    Format(
        "swe-agent", frozenset({"trajectory", "history"}), swe_agent.read, session_by_session=True
    ),
    Format("messages", frozenset({"messages"}), messages.read),
    # Hand-made .traj files may hold nothing but their history.
    Format("swe-agent", frozenset({"history", "role"}), swe_agent.read, session_by_session=True),
)

FORMAT_NAMES: Final = tuple(dict.fromkeys(known.name for known in FORMATS))

# Quotes inside JSON texts are escaped, so this finds names of fields and nothing within prompts.
_FIELD_NAME = re.compile(r'(?<!\\)"(\w+)"\s*:')


def format_named(name: str) -> Format:
    """Return the format called `name`."""
    for known in FORMATS:
        if known.name == name:
            return known
    remedy = f"known: auto, {', '.join(FORMAT_NAMES)}"
    raise TraceError(f"format {name!r}", "not known", remedy)


def detect_format(document: Document) -> Format:
    """Return the format that the beginning of `document` shows."""
    names = frozenset(_FIELD_NAME.findall(document.head()))
    for known in FORMATS:
        if known.keys <= names:
            return known
    shown = ", ".join(sorted(names)[:8]) or "none"
    remedy = f"name one with --format: {', '.join(FORMAT_NAMES)}"
    raise TraceError(document.name, f"of no known format (its fields: {shown})", remedy)
