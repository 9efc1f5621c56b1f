"""What the readers of all formats are given, and what each of them is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from tierd_bench.traces.documents import Document
from tierd_bench.traces.requests import TraceRequest

DEFAULT_TOKENIZER: Final = "cl100k_base"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to cut prompts into blocks; `block_tokens` None keeps the format's own size."""

    block_tokens: int | None = None
    tokenizer: str = DEFAULT_TOKENIZER


class Reader(Protocol):
    """Reads the documents of one recording: one folder's, of one format."""

    def __call__(
        self, documents: Iterable[Document], options: ReadOptions
    ) -> Iterator[tuple[int, TraceRequest]]:
        """Yield requests in trace order, each with its block size, reading no further than asked.

        Raises:
            TraceError: a document is broken or of another format.
        """
        ...
