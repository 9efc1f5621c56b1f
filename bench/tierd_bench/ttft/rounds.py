"""What the engines are asked, in which order, and the samples that gives.

All engines are there at once and take turns. Each answer from a store is followed at once by the
same question to the engine that has it in its own prefix cache: a machine that is busy for a
while is so for both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tierd_bench.bench.stage import NotMeasured
from tierd_bench.ttft.engines import Answer
from tierd_bench.ttft.prompts import ANSWER_TOKENS, Limits, make_prompt, make_turns
from tierd_bench.ttft.ways import ON_DISK, Store

RECOMPUTE: Final = "recompute"
LOCAL: Final = "local hit"
FIRST: Final = "first"
"""Of a store: the prompt is new, so it is computed, and kept."""

_WARM_TOKENS: Final = 512

Same = Literal["bits", "tokens", "no"]
"""How an answer compares with that of the local hit: tokens and log probabilities, or tokens."""

Tell = Callable[[str], None]
"""Called with what is asked next."""

DiskRate = Callable[[], float]
"""Returns the bytes a second that the disk can be read with now."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One length of prompts. `turn` counts from 1, and is 0 outside of conversations."""

    name: str
    tokens: int
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. `local_seconds` are those of a local hit right after or before.

    `way` is `RECOMPUTE`, `LOCAL`, or a store's name and a place, or the name and `FIRST`.
    `disk_seconds` are what the disk, at its limit right then, takes for what was reused; 0 where
    nothing came from there.
    """

    scene: Scene
    way: str
    seconds: float
    local_seconds: float
    recompute_seconds: float
    reused_tokens: int
    same: Same
    disk_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Course:
    """What to ask. Units: tokens. `turns` may be 0, for no conversations."""

    prompts: Sequence[int]
    rounds: int
    turns: int
    turn_rounds: int
    turn_first: int
    turn_each: int
    question: int
    seed: int


def name_of(tokens: int) -> str:
    """Return how people write a number of tokens."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def run_rounds(
    course: Course, stores: Sequence[Store], disk: DiskRate, tell: Tell
) -> Iterator[Sample]:
    """Ask everything, and yield the samples. The first of `stores` is the engine alone.

    Raises:
        NotMeasured: an engine has computed what it was to have, or the other way round.
        EngineFailed: one ended.
    """
    facts = stores[0].facts
    limits = Limits(facts.tokens_max, facts.vocabulary, course.question)
    for number in range(-1, course.rounds):
        # The first round warms everything up, and does not count.
        lengths = course.prompts if number >= 0 else [_WARM_TOKENS]
        for place, tokens in enumerate(lengths):
            prompt = make_prompt((course.seed, number + 1, place), tokens, limits)
            scene = Scene(name_of(tokens), len(prompt))
            tell(f"{scene.name}, round {number + 1} of {course.rounds}")
            samples = list(_one_prompt(scene, prompt, _in_turn(stores, number + 1), disk))
            yield from samples if number >= 0 else ()
    for number in range(course.turn_rounds if course.turns else 0):
        seed = (course.seed, number, len(course.prompts))
        turns = make_turns(seed, course.turn_first, course.turn_each, course.turns, limits)
        tell(f"conversation {number + 1} of {course.turn_rounds}")
        yield from _one_conversation(turns, _in_turn(stores, number))


@dataclass(frozen=True, slots=True)
class _Standard:
    """What answers of one prompt are compared with."""

    scene: Scene
    computed: Answer
    local: Answer

    def sample(self, way: str, answer: Answer, local_seconds: float = 0.0) -> Sample:
        """Return `answer` beside them. A prompt that was new is compared with the computed one."""
        like = self.computed if way.endswith(FIRST) else self.local
        return Sample(
            self.scene,
            way,
            answer.seconds,
            local_seconds or self.local.seconds,
            self.computed.seconds,
            answer.reused_tokens,
            compare(answer, like),
        )


def _one_prompt(
    scene: Scene, prompt: list[int], stores: Sequence[Store], disk: DiskRate
) -> Iterator[Sample]:
    alone, *others = stores
    computed = alone.engine.ask(prompt, ANSWER_TOKENS)
    local = alone.engine.ask(prompt, ANSWER_TOKENS)
    if computed.reused_tokens or not local.reused_tokens:
        reused = f"{computed.reused_tokens} and then {local.reused_tokens}"
        raise NotMeasured(f"the engine alone was to reuse nothing, then most, but reused {reused}")
    standard = _Standard(scene, computed, local)
    yield standard.sample(RECOMPUTE, computed)
    yield standard.sample(LOCAL, local)
    for store in others:
        first = store.engine.ask(prompt, ANSWER_TOKENS)
        yield standard.sample(f"{store.name} {FIRST}", first)
        for place, prepare in store.places.items():
            prepare()
            found = store.engine.ask(prompt, ANSWER_TOKENS)
            local_s = alone.engine.ask(prompt, 1).seconds
            sample = standard.sample(f"{store.name} {place}", found, local_s)
            if place == ON_DISK:
                size = found.reused_tokens * store.facts.token_bytes
                sample = replace(sample, disk_seconds=size / disk())
            yield sample
        store.engine.forget()
    alone.engine.forget()


def _one_conversation(turns: list[list[int]], stores: Sequence[Store]) -> Iterator[Sample]:
    """Each turn finds what was kept of the one before, as if another engine took over."""
    alone, *others = stores
    for number, prompt in enumerate(turns, start=1):
        local = alone.engine.ask(prompt, ANSWER_TOKENS)
        # Apart, so that the next turn finds what this one left, and not what was computed anew:
        # that has the same meaning, but not the same bits.
        computed = alone.engine.ask(prompt, ANSWER_TOKENS, apart=f"turn {number}")
        standard = _Standard(Scene(f"turn {number}", len(prompt), number), computed, local)
        yield standard.sample(RECOMPUTE, computed)
        yield standard.sample(LOCAL, local)
        for store in others:
            nearest = next(iter(store.places))
            store.places[nearest]()
            answer = store.engine.ask(prompt, ANSWER_TOKENS)
            yield standard.sample(f"{store.name} {nearest}", answer)
    for store in stores:
        store.engine.forget()


def compare(answer: Answer, other: Answer) -> Same:
    """Return how alike two answers are."""
    if answer.tokens != other.tokens:
        return "no"
    return "bits" if answer.logprobs == other.logprobs else "tokens"


def _in_turn(stores: Sequence[Store], number: int) -> list[Store]:
    """Return the engine alone, then the others, in each round from another one on."""
    alone, *others = stores
    start = number % max(1, len(others))
    return [alone, *others[start:], *others[:start]]
