"""An agent's conversation, as the cache wants to see it: tokens that only grow, with hints.

    with AgentSession(engine, system=prompt, tools=definitions) as session:
        session.add("user", question)
        step = session.generate(Sampling(stops=(end_of_turn,)))
        with session.tool(expected_s=2.0):
            result = search(step.tokens)
        session.add("tool_result", result)
        answer = session.generate(Sampling(stops=(end_of_turn,)))
        session.turn_ended()

The history is kept as tokens, not as text: text that is decoded and encoded again may split
otherwise, and from there on nothing would be found. What is fetched and published, and when, is
the engine's business, see `Engine`. Turning messages into tokens is the caller's.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, Self
from weakref import WeakSet

from tierd.core.errors import InvalidRequest, TierdError
from tierd.core.notes import BLOCK_CLASSES, BlockClass, check_expected
from tierd_client.namespace import Namespace


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine is to choose tokens.

    Temperature 0 takes the likeliest. What is generated ends after `tokens_max`, or with a token
    of `stops`, which is part of it. Where there are `options`, one of these comes out whole: at
    each token where they part, the likeliest of those that lead to one.

    Raises:
        InvalidRequest: an option is empty or continues another, or a number is out of range.
    """

    tokens_max: int = 256
    stops: tuple[int, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    options: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.tokens_max < 1:
            raise InvalidRequest("tokens_max", str(self.tokens_max), "ask for at least one token")
        if self.temperature < 0:
            raise InvalidRequest("temperature", str(self.temperature), "give 0 or more")
        for option in self.options:
            if any(option == other[: len(option)] for other in set(self.options) - {option}):
                remedy = "end each option with a token that tells it from the others"
                raise InvalidRequest("options", f"{option}, which begins another", remedy)
        if () in self.options:
            raise InvalidRequest("options", "an empty one", "give each at least one token")

    def allowed(self, chosen: Sequence[int]) -> list[int]:
        """Return the tokens that may follow `chosen`, the beginning of an option."""
        depth = len(chosen)
        begun = [option for option in self.options if option[:depth] == tuple(chosen)]
        return sorted({option[depth] for option in begun if len(option) > depth})


@dataclass(frozen=True, slots=True)
class Generated:
    """What an engine made of a history.

    `reused` tokens of it were not computed: `by_tier` says where their KV was found, by the names
    of the daemon's tiers, or "engine" for what the engine had by itself or does not tell apart.
    `ttft_s` is from the call to the first new token, `seconds` to the last.
    """

    tokens: list[int]
    reused: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    ttft_s: float = 0.0
    seconds: float = 0.0


class Engine(Protocol):
    """What continues a history, with a cache behind it."""

    @property
    def namespace(self) -> Namespace | None:
        """Where the blocks of a history are known by its tokens, for hints; None: nowhere here."""
        ...

    def generate(self, tokens: Sequence[int], sampling: Sampling) -> Generated:
        """Return what follows `tokens`, whose longest held prefix is fetched, not computed.

        What was computed is published. Raises what it likes: the history stays as it was.
        """
        ...


@dataclass(eq=False)
class EngineFailed(TierdError):
    """An engine gave no answer, or not one that can be used. Nothing was added to the history."""

    engine: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.engine}: {self.cause}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one kind in a history, from `start` to before `stop`."""

    kind: BlockClass
    start: int
    stop: int


class AgentSession:
    """The history of one agent, and what the cache should know of it.

    `system` and `tools` begin the history, and serve other sessions that begin alike: they stay
    when this one is over. A branch starts with the history so far, for a sub-agent; what a branch
    shares with sessions that go on stays, too.

    Concurrency: one call at a time; a session and its branches may be in different threads, as
    far as the engine allows. `generate` blocks: await it by `asyncio.to_thread`. Hints are not
    waited for, so all else may be called in a loop. A daemon that is away hears none.
    """

    def __init__(
        self, engine: Engine, *, system: Sequence[int] = (), tools: Sequence[int] = ()
    ) -> None:
        self._engine: Final = engine
        self._tokens: list[int] = []
        self._segments: list[Segment] = []
        self._relatives = _Relatives()
        self._over = False
        self.add("system", system)
        self.add("tools", tools)
        self._standing = len(self._tokens)
        self._relatives.join(self)

    # ---- the history

    @property
    def tokens(self) -> Sequence[int]:
        """The history. Not to be changed."""
        return self._tokens

    @property
    def segments(self) -> Sequence[Segment]:
        """What the history consists of, in order and without gaps."""
        return tuple(self._segments)

    def add(self, kind: BlockClass, tokens: Sequence[int]) -> None:
        """Continue the history with `tokens`. Nothing is computed yet.

        Raises:
            InvalidRequest: there is no such kind, or the session is over.
        """
        self._check_not_over()
        if kind not in BLOCK_CLASSES:
            raise InvalidRequest("kind", repr(kind), f"say one of {', '.join(BLOCK_CLASSES)}")
        start = len(self._tokens)
        # A list of its own: branches go on from the one there was, and relatives look into it.
        self._tokens = [*self._tokens, *tokens]
        if len(self._tokens) > start:
            self._segments.append(Segment(kind, start, len(self._tokens)))

    def classes(self, block_tokens: int) -> list[BlockClass]:
        """Return what each whole block of the history is: the kind of its last token."""
        ends = [segment.stop for segment in self._segments]
        lasts = range(block_tokens - 1, len(self._tokens), block_tokens)
        return [self._segments[bisect_left(ends, last + 1)].kind for last in lasts]

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens only, as when an answer is tried again.

        The rest is expected no more, unless a relative needs it.

        Raises:
            InvalidRequest: the history is shorter, or less would be left than system and tools.
        """
        self._check_not_over()
        if not self._standing <= length <= len(self._tokens):
            remedy = f"give {self._standing} to {len(self._tokens)}"
            raise InvalidRequest("length", str(length), remedy)
        gone, self._tokens = self._tokens, self._tokens[:length]
        kept = [segment for segment in self._segments if segment.start < length]
        self._segments = [Segment(s.kind, s.start, min(s.stop, length)) for s in kept]
        self._let_go(gone, length)

    def drop(self, kind: BlockClass) -> None:
        """Take all segments of `kind` out, as models do that are not shown their own thoughts.

        What follows the first of them is computed anew with the next step.

        Raises:
            InvalidRequest: it is what the session began with, or the session is over.
        """
        first = next((s.start for s in self._segments if s.kind == kind), None)
        if first is None:
            return
        tokens, segments = self._tokens, self._segments
        self.rewind(first)
        for segment in segments:
            if segment.start > first and segment.kind != kind:
                self.add(segment.kind, tokens[segment.start : segment.stop])

    # ---- steps

    def generate(
        self,
        sampling: Sampling,
        *,
        kind: BlockClass = "answer",
        thoughts_end: int | None = None,
    ) -> Generated:
        """Have the engine go on, and add what it says to the history, as `kind`.

        Up to and with the token `thoughts_end` it is "thinking", where that token comes.

        Raises:
            InvalidRequest: the history is empty, or the session is over.
            Exception: whatever the engine raises. The history is as before: try again, or end.
        """
        self._check_not_over()
        if not self._tokens:
            raise InvalidRequest("history", "empty", "add the tokens to go on from")
        generated = self._engine.generate(self._tokens, sampling)
        said = generated.tokens
        thoughts = said.index(thoughts_end) + 1 if thoughts_end in said else 0
        self.add("thinking", said[:thoughts])
        self.add(kind, said[thoughts:])
        return generated

    @contextmanager
    def tool(self, expected_s: float | None = None) -> Iterator[None]:
        """Hint that the agent waits for a tool as long as this lasts.

        A tool that is expected to take a minute or more is no reason to keep what it waits for
        in memory; the daemon brings its blocks back shortly before it should be over. One that is
        back early needs no hint: the next step fetches. Where nothing is expected, what the
        daemon learned of tools counts.

        Raises:
            InvalidRequest: `expected_s` is negative, more than a day, or no number.
        """
        check_expected(expected_s)
        self._pause("tool", expected_s)
        yield

    def turn_ended(self) -> None:
        """Hint that a person reads now, and writes later."""
        self._pause("person")

    # ---- beginning and end

    def branch(self) -> "AgentSession":
        """Return a session of a sub-agent that has the history so far, and its own from here."""
        self._check_not_over()
        branch = AgentSession(self._engine)
        branch._tokens = self._tokens
        branch._segments = list(self._segments)
        branch._standing = self._standing
        branch._relatives = self._relatives
        self._relatives.join(branch)
        return branch

    def end(self) -> None:
        """Hint that nobody comes back to this history. Safe to call twice."""
        if not self._over:
            self._over = True
            self._relatives.leave(self)
            self._let_go(self._tokens, self._standing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # ---- how

    def _check_not_over(self) -> None:
        if self._over:
            raise InvalidRequest("session", "over", "begin another, or branch before the end")

    def _pause(self, waits_for: Literal["person", "tool"], expected_s: float | None = None) -> None:
        namespace = self._engine.namespace
        if namespace is not None:
            classes = self.classes(namespace.layout.block_tokens)
            namespace.end_turn(
                self._tokens, classes=classes, waits_for=waits_for, expected_s=expected_s
            )

    def _let_go(self, tokens: Sequence[int], kept: int) -> None:
        """Hint that of `tokens` only the first `kept` are needed, and what relatives have."""
        namespace = self._engine.namespace
        if namespace is None:
            return
        needed = max(kept, self._relatives.need(tokens))
        block_tokens = namespace.layout.block_tokens
        if len(tokens) // block_tokens > needed // block_tokens:
            namespace.end_session(tokens, shared=needed // block_tokens)


class _Relatives:
    """The live sessions of one tree of branches. Any thread.

    One that is dropped without its end is forgotten: nobody can continue it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: WeakSet[AgentSession] = WeakSet()

    def join(self, session: AgentSession) -> None:
        with self._lock:
            self._live.add(session)

    def leave(self, session: AgentSession) -> None:
        with self._lock:
            self._live.discard(session)

    def need(self, tokens: Sequence[int]) -> int:
        """Return how many of `tokens`, from the first, a live session begins with."""
        with self._lock:
            return max((_common(tokens, session.tokens) for session in self._live), default=0)


def _common(ones: Sequence[int], others: Sequence[int]) -> int:
    """Return the length of the longest prefix of both."""
    longest = min(len(ones), len(others))
    differs = range(longest + 1)
    return bisect_left(differs, 1, key=lambda n: int(ones[:n] != others[:n])) - 1
