"""What the engines are asked, in which order, and the samples that gives.

All engines of a group are there at once and take turns: a machine that is busy for a while is so
for all. Each answer to a prompt from a store is followed at once by the same question to the
engine that has it in its own prefix cache; in a conversation that engine goes first in each turn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tierd_bench.bench.stage import NotMeasured
from tierd_bench.ttft.engines import Answer
from tierd_bench.ttft.prompts import ANSWER_TOKENS, Limits, make_prompt, make_turns
from tierd_bench.ttft.stores import DISK, Group

RECOMPUTE: Final = "recompute"
LOCAL: Final = "local hit"
FIRST: Final = "first"
"""Of a store: the prompt is new, so it is computed, and kept."""

_WARM_TOKENS: Final = 512

Same = Literal["bits", "tokens", "no"]
"""How an answer compares with another: tokens and log probabilities, tokens, or not at all."""

Tell = Callable[[str], None]
"""Called with what is asked next."""

DiskRate = Callable[[], float]
"""Returns the bytes a second that the disk can be read with now."""


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts of one length, or one turn of conversations.

    `turn` counts from 1, and is 0 outside of conversations. `reusable_tokens` are what the
    engine's own cache finds of such a prompt, if what was asked before is there.
    """

    name: str
    tokens: int
    reusable_tokens: int
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. `local_seconds` are those of a local hit right after or before.

    `source` says where the KV came from: it is `RECOMPUTE`, `LOCAL`, or a store's name and a
    tier, or the name and `FIRST`. `same` compares with the local hit, of `FIRST` with what was
    computed. `disk_seconds` are what the disk, at its limit right then, takes for what was
    reused; 0 where that was not measured.
    """

    case: Case
    source: str
    seconds: float
    local_seconds: float
    recompute_seconds: float
    reused_tokens: int
    same: Same
    disk_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What to ask. Units: tokens. `turns` may be 0, for no conversations.

    `turn_rounds` are of conversations for each tier.
    """

    prompts: Sequence[int]
    rounds: int
    turns: int
    turn_rounds: int
    turn_first: int
    turn_each: int
    question: int
    seed: int

    @property
    def tokens_max(self) -> int:
        """The longest prompt and its answer."""
        conversation = self.turn_first + self.turn_each * (self.turns - 1) if self.turns else 0
        return max(*self.prompts, conversation) + self.question + ANSWER_TOKENS


def name_of(tokens: int) -> str:
    """Return how people write a number of tokens."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def run_rounds(workload: Workload, group: Group, disk: DiskRate, tell: Tell) -> Iterator[Sample]:
    """Ask everything, and yield the samples.

    Raises:
        NotMeasured: an engine has computed what it was to have, or the other way round.
        EngineFailed: one ended.
    """
    facts = group.facts
    limits = Limits(facts.tokens_max, facts.vocabulary, workload.question)
    for number in range(-1, workload.rounds):
        # The first round warms everything up, and does not count.
        lengths = workload.prompts if number >= 0 else [_WARM_TOKENS]
        for index, tokens in enumerate(lengths):
            prompt = make_prompt((workload.seed, number + 1, index), tokens, limits)
            case = Case(name_of(tokens), len(prompt), facts.reusable_tokens(len(prompt)))
            tell(f"{facts.engine}: {case.name}, round {number + 1} of {workload.rounds}")
            samples = list(_one_prompt(case, prompt, _rotated(group, number + 1), disk))
            yield from samples if number >= 0 else ()
    tiers = dict.fromkeys(tier for store in group.stores for tier in store.tiers)
    for number in range(workload.turn_rounds if workload.turns else 0):
        # One for each tier: a turn that was asked from one has left its own KV everywhere.
        for index, tier in enumerate(tiers):
            seed = (workload.seed, number, len(workload.prompts), index)
            turns = make_turns(
                seed, workload.turn_first, workload.turn_each, workload.turns, limits
            )
            tell(f"{facts.engine}: conversation {number + 1} of {workload.turn_rounds}, {tier}")
            yield from _one_conversation(turns, tier, _rotated(group, number))


@dataclass(frozen=True, slots=True)
class _Reference:
    """What answers of one prompt are compared with."""

    case: Case
    computed: Answer
    local: Answer

    def sample(self, source: str, answer: Answer, local_seconds: float = 0.0) -> Sample:
        """Return `answer` beside them. A prompt that was new is compared with the computed one."""
        other = self.computed if source.endswith(FIRST) else self.local
        return Sample(
            self.case,
            source,
            answer.seconds,
            local_seconds or self.local.seconds,
            self.computed.seconds,
            answer.reused_tokens,
            compare(answer, other),
        )


def _one_prompt(case: Case, prompt: list[int], group: Group, disk: DiskRate) -> Iterator[Sample]:
    computed = group.alone.ask(prompt, ANSWER_TOKENS)
    local = group.alone.ask(prompt, ANSWER_TOKENS)
    if computed.reused_tokens or local.reused_tokens < case.reusable_tokens:
        reused = f"{computed.reused_tokens} and then {local.reused_tokens}"
        wanted = f"nothing, then {case.reusable_tokens}"
        raise NotMeasured(f"the engine alone was to reuse {wanted} tokens, but reused {reused}")
    reference = _Reference(case, computed, local)
    yield reference.sample(RECOMPUTE, computed)
    yield reference.sample(LOCAL, local)
    for store in group.stores:
        first = store.engine.ask(prompt, ANSWER_TOKENS)
        yield reference.sample(f"{store.name} {FIRST}", first)
        for tier, leave_only in store.tiers.items():
            leave_only()
            found = store.engine.ask(prompt, ANSWER_TOKENS)
            local_s = group.alone.ask(prompt, 1).seconds
            sample = reference.sample(f"{store.name} {tier}", found, local_s)
            if tier == DISK:
                size = found.reused_tokens * group.facts.token_bytes
                sample = replace(sample, disk_seconds=size / disk())
            yield sample
        store.engine.forget()
    group.alone.forget()


def _one_conversation(turns: list[list[int]], tier: str, group: Group) -> Iterator[Sample]:
    """Each turn finds in `tier` what was kept of the one before, as if another engine took over.

    The first finds nothing: it is new to all.
    """
    known = 0
    for number, prompt in enumerate(turns, start=1):
        local = group.alone.ask(prompt, ANSWER_TOKENS)
        # With a salt, so that the next turn finds what this one left, and not what was computed
        # anew: that has the same meaning, but not the same bits.
        computed = group.alone.ask(prompt, ANSWER_TOKENS, salt=f"turn {number}")
        # None of these tokens is the prompt's last one, so all their whole blocks count.
        reusable = group.facts.reusable_tokens(known + 1)
        case = Case(f"turn {number}", len(prompt), reusable, number)
        reference = _Reference(case, computed, local)
        yield reference.sample(RECOMPUTE, computed)
        yield reference.sample(LOCAL, local)
        for store in group.stores:
            if tier not in store.tiers:
                continue
            if known:
                store.tiers[tier]()
            answer = store.engine.ask(prompt, ANSWER_TOKENS)
            yield reference.sample(f"{store.name} {tier if known else FIRST}", answer)
        known = len(prompt)
    for engine in (group.alone, *(store.engine for store in group.stores)):
        engine.forget()


def compare(answer: Answer, other: Answer) -> Same:
    """Return how alike two answers are."""
    if answer.tokens != other.tokens:
        return "no"
    return "bits" if answer.logprobs == other.logprobs else "tokens"


def _rotated(group: Group, number: int) -> Group:
    """Return the group with its stores in another order in each round."""
    start = number % max(1, len(group.stores))
    return replace(group, stores=[*group.stores[start:], *group.stores[:start]])
