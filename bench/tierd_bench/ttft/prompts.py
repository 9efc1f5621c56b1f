"""Prompts of exact lengths, from a seed.

Their tokens are drawn at random: how long a prompt takes does not depend on what it says, and no
two prompts share a prefix by accident.

A prompt is a context and a question after it. A context of a multiple of 256 tokens is whole
blocks for every store and every engine, so that all of them can reuse exactly that; of 128, it is
so for all but LMCache. The question is what is always computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

ANSWER_TOKENS: Final = 4
"""Of each answer that is compared."""

QUESTION_TOKENS: Final = 64
"""Half a block of vLLM's on a CPU, as a prompt of any length has behind its last whole one."""

_UNIT_TOKENS: Final = 256
"""Contexts that are cut short are multiples of this: of vLLM's blocks and of LMCache's chunks."""

_RESERVED: Final = 256
"""Ids below are often those of special tokens."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What prompts have to keep to. Units: tokens; `question` is what every prompt ends with."""

    tokens_max: int
    vocabulary: int
    question: int = QUESTION_TOKENS


def make_prompt(seed: Sequence[int], context: int, limits: Limits) -> list[int]:
    """Return a prompt with a context of so many tokens, or as many as fit, and a question."""
    most = limits.tokens_max - limits.question - ANSWER_TOKENS
    fits = context if context <= most else most // _UNIT_TOKENS * _UNIT_TOKENS
    count = fits + limits.question
    drawn = np.random.default_rng(list(seed)).integers(_RESERVED, limits.vocabulary, count)
    return [int(token) for token in drawn]


def make_turns(
    seed: Sequence[int], first: int, each: int, count: int, limits: Limits
) -> list[list[int]]:
    """Return the prompts of a conversation: each is the one before and `each` tokens more.

    What is added stands for an answer and what was said to it. Turns that do not fit are left
    out.
    """
    whole = make_prompt(seed, first + each * (count - 1), limits)
    ends = range(first + limits.question, len(whole) + 1, each)
    return [whole[:end] for end in ends]
