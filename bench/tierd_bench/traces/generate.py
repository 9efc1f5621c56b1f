"""Synthetic agent traces: sessions of turns that share a head, call tools and grow.

The shapes of sessions come from `shapes`; here they become requests, in time and in blocks. The
same workload, number of sessions and seed give the same trace.
"""

import gzip
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from tierd_bench.traces.requests import Trace, TraceRequest
from tierd_bench.traces.shapes import Shape, draw_shapes
from tierd_bench.traces.workload import Workload

BLOCK_TOKENS: Final = 64
_OUTPUT_TOKENS_PER_S: Final = 50.0
"""At which answers are dated; a replay at recorded pace has its own speed between arrivals."""

_GAP_SIGMA: Final = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One generated call. Tokens unless named otherwise; `after` is what came before it."""

    session: str
    at_ms: int
    gap_ms: int
    after: str
    context: int
    append: int
    output: int
    first_private_block: int

    @property
    def prompt(self) -> int:
        return self.context + self.append


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated trace, before its blocks are written out."""

    name: str
    block_tokens: int
    shared_blocks: int
    turns: tuple[Turn, ...]

    def blocks(self, turn: Turn) -> "array[int]":
        """Return the ids of the whole blocks of `turn`'s prompt: the common head, then its own."""
        count = turn.prompt // self.block_tokens
        shared = min(count, self.shared_blocks)
        own = range(turn.first_private_block, turn.first_private_block + count - shared)
        return array("Q", [*range(shared), *own])

    def trace(self) -> Trace:
        """Return it as the reader of the written file would, up to names and ids."""
        return Trace(self.name, self.block_tokens, tuple(map(self._request, self.turns)))

    def write(self, path: Path) -> None:
        """Write it as Mooncake JSONL with sessions; packed if `path` ends in .gz."""
        with path.open("wb") as raw:
            if path.suffix == ".gz":
                # No name and no time in the header: the same trace gives the same file.
                with gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
                    self._write_lines(packed)
            else:
                self._write_lines(raw)

    def _write_lines(self, target: IO[bytes] | gzip.GzipFile) -> None:
        for turn in self.turns:
            line = {
                "timestamp": turn.at_ms,
                "input_length": turn.prompt,
                "output_length": turn.output,
                "hash_ids": self.blocks(turn).tolist(),
                "session": turn.session,
                "block_size": self.block_tokens,
                "gap_ms": turn.gap_ms,
                "after": turn.after,
            }
            target.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _request(self, turn: Turn) -> TraceRequest:
        blocks = self.blocks(turn)
        return TraceRequest(turn.session, turn.at_ms / 1e3, blocks, turn.output, turn.gap_ms / 1e3)


def generate(
    workload: Workload,
    sessions: int,
    seed: int,
    block_tokens: int = BLOCK_TOKENS,
    name: str = "generated",
) -> Generated:
    """Return a trace of `workload`, its turns in the order of time.

    Raises:
        TraceError: the workload's means contradict one another.
    """
    rng = np.random.default_rng(seed)
    shapes = draw_shapes(workload, sessions, rng)
    compacted = _choose(sessions, workload.compacted_ratio, rng)
    starts_s = np.cumsum(rng.exponential(1 / workload.sessions_per_s, sessions))
    blocks = _BlockCounter(block_tokens, workload.shared_prompt // block_tokens)
    turns: list[Turn] = []
    for index, (shape, start_s) in enumerate(zip(shapes, starts_s - starts_s[0], strict=True)):
        at = rng.uniform(0.4, 0.8) * len(shape.appends)
        prompts = _prompts(shape, workload, max(1, int(at)) if index in compacted else None)
        gaps = _gaps(len(shape.appends), workload, rng)
        at_ms = round(start_s * 1e3)
        for prompt, (after, gap_ms) in zip(prompts, gaps, strict=True):
            at_ms += gap_ms
            turns.append(
                Turn(
                    f"agent-{index:04d}",
                    at_ms,
                    gap_ms,
                    "compaction" if prompt.is_compacted else after,
                    prompt.context,
                    prompt.append,
                    prompt.output,
                    blocks.place(prompt),
                )
            )
            at_ms += round(prompt.output / _OUTPUT_TOKENS_PER_S * 1e3)
    turns.sort(key=lambda turn: turn.at_ms)
    return Generated(name, block_tokens, blocks.shared, tuple(turns))


@dataclass(frozen=True, slots=True)
class _Prompt:
    context: int
    append: int
    output: int
    starts_prefix: bool
    is_compacted: bool


class _BlockCounter:
    """Gives each new prefix a run of private block ids, as long as its longest prompt."""

    def __init__(self, block_tokens: int, shared: int) -> None:
        self.shared: Final = shared
        self._block_tokens: Final = block_tokens
        self._first = self._end = shared

    def place(self, prompt: _Prompt) -> int:
        """Return the first private block of the prefix that `prompt` begins or continues."""
        if prompt.starts_prefix:
            self._first = self._end
        own = (prompt.context + prompt.append) // self._block_tokens - self.shared
        self._end = max(self._end, self._first + own)
        return self._first


def _prompts(shape: Shape, workload: Workload, compact_at: int | None) -> Iterator[_Prompt]:
    """Yield what each turn sends; a compaction keeps the head, a summary and the new append."""
    length = 0
    for number, (append, output) in enumerate(
        zip(shape.appends.tolist(), shape.outputs.tolist(), strict=True)
    ):
        if number == compact_at:
            length, append = workload.shared_prompt, workload.summary + append
        yield _Prompt(length, append, output, number in (0, compact_at), number == compact_at)
        length += append + output


def _gaps(count: int, workload: Workload, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Return what each turn came after, and how many milliseconds after."""
    is_tool = rng.uniform(size=count) < workload.tool_ratio
    medians_s = np.where(is_tool, workload.tool_gap_s, workload.user_gap_s)
    gaps_ms = np.rint(medians_s * rng.lognormal(0.0, _GAP_SIGMA, count) * 1e3).astype(int)
    later = [
        ("tool" if tool else "user", int(gap)) for tool, gap in zip(is_tool, gaps_ms, strict=True)
    ]
    return [("start", 0), *later[1:]]


def _choose(count: int, ratio: float, rng: np.random.Generator) -> set[int]:
    return set(rng.permutation(count)[: round(count * ratio)].tolist())
