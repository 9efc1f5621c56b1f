"""An agent with real weights whose context is kept in tierd.

    python client/examples/agent.py --embedded

SmolLM2-135M plans each step in a sentence, chooses a tool, writes its input, reads the result,
and answers. For every step this prints how many tokens of the history were computed, how many
were reused and from which tier, and the time to the first new token; for the first step of each
turn also what that time is without tierd, measured in the same run.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent_tools import TOOLS, ToolFailed
from smollm2 import DEFAULT, SetupFailed, converted, loaded

from tierd.core.errors import TierdError
from tierd.core.notes import BlockClass
from tierd_client import connect
from tierd_client.agents import AgentSession, Engine, Generated, Sampling

SYSTEM: Final = """<|im_start|>system
You are an assistant that uses tools. For each question, write a short plan, then name one tool, \
then its input. When you have seen the result, answer in one sentence."""

DEFINITIONS: Final = """
Tools:
clock: tells today's date and the time. Input: now.
calculator: works out an expression with numbers and + - * / ( ). Input: the expression.
convert: converts a length or a weight between units. Input: the number, its unit, "to", the other.
book: finds sentences about the Sun, planets and moons in a book. Input: the words to look for.

Examples:
Question: What day is it today?
Plan: I need today's date.
Tool: clock
Input: now
Result: Friday, 01 March 2024, 10:15 UTC
Answer: Today is Friday, 1 March 2024.

Question: Which planet is the largest?
Plan: This is a fact about planets, so I look in the book.
Tool: book
Input: largest planet
Result: Jupiter is the largest planet of the solar system, and has 95 known moons.
Answer: The largest planet is Jupiter.

Question: What is 12 plus 30?
Plan: This is arithmetic with numbers.
Tool: calculator
Input: 12 + 30
Result: 42
Answer: 12 plus 30 is 42.

Question: Who discovered Neptune?
Plan: This is a fact about planets, so I look in the book.
Tool: book
Input: discovered Neptune
Result: Neptune is the planet farthest from the Sun; it was discovered by Johann Galle in 1846.
Answer: Neptune was discovered by Johann Galle.

Question: How much is 9 * (4 + 3)?
Plan: This is arithmetic with numbers.
Tool: calculator
Input: 9 * (4 + 3)
Result: 63
Answer: 9 * (4 + 3) is 63.

Question: How heavy is 5 kg in pounds?
Plan: This is a weight in another unit.
Tool: convert
Input: 5 kg to pounds
Result: 5 kg = 11.02 pound
Answer: 5 kg is about 11.02 pounds.
<|im_end|>
"""

QUESTIONS: Final = (
    "How much is 37 * 43?",
    "How many moons does Mars have?",
    "How far is 26.2 miles in kilometers?",
)
SECOND: Final = "Who discovered the moon Titan?"

EXPECTED_S: Final = 0.1
"""How long a tool is expected to take: these are local."""

_HEADER: Final = (
    f"{'step':<10}{'history':>8}{'reused':>8}  {'from':<16}{'computed':>8}{'new':>6}"
    f"{'TTFT':>10}{'without':>10}"
)


@dataclass
class Totals:
    """What came of all steps."""

    tokens: int = 0
    reused: int = 0
    ttft_s: list[tuple[float, float]] = field(default_factory=list)
    """With tierd and without, of the steps for which both were measured."""


class Agent:
    """Answers questions in one session, step by step, and tells what each step took."""

    def __init__(self, session: AgentSession, tokenizer: Any, without: Any, totals: Totals) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._without = without
        self._totals = totals
        self._newline = self._encode("\n")[-1]
        self._line = Sampling(tokens_max=48, stops=(self._newline, tokenizer.eos_token_id))

    def ask(self, question: str) -> str:
        """Plan, call a tool, and answer."""
        session = self._session
        self._add("user", f"\nQuestion: {question}\n")
        plan = self._write("Plan:", "thinking", measured=True)
        print(f"  plan: {plan}")
        left = list(TOOLS)
        while left:
            options = tuple(tuple(self._encode(f" {name}\n")) for name in left)
            name = self._write("Tool:", "answer", Sampling(options=options))
            line = self._write("Input:", "answer")
            with session.tool(EXPECTED_S):
                result = _called(name, line, question)
            self._add("tool_result", f"Result: {result or 'nothing was found'}\n")
            left = [] if result else [other for other in left if other != name]
        answer = self._write("Answer:", "answer")
        session.turn_ended()
        print(f"  answer: {answer}\n")
        return answer

    def note(self) -> None:
        """Have a sub-agent with the same history say what it was about; it ends with that."""
        with self._session.branch() as branch:
            other = Agent(branch, self._tokenizer, self._without, self._totals)
            print("a sub-agent branches off, and sums up what it has in its context")
            print(_HEADER)
            other._add("user", "\nIn a few words, the questions were about")
            print(f"  note: {other._write('', 'answer')}\n")

    def _add(self, kind: BlockClass, text: str) -> None:
        self._session.add(kind, self._encode(text))

    def _write(
        self,
        label: str,
        kind: BlockClass,
        sampling: Sampling | None = None,
        *,
        measured: bool = False,
    ) -> str:
        """Have the model go on after `label` up to the end of the line; return what it wrote."""
        self._add(kind, label)
        history = list(self._session.tokens)
        without_s = self._without(history) if measured and self._without else None
        generated = self._session.generate(sampling or self._line, kind=kind)
        self._tell(label.removesuffix(":") or "note", len(history), generated, without_s)
        if generated.tokens[-1] != self._newline:
            if generated.tokens[-1] == self._tokenizer.eos_token_id:
                self._session.rewind(len(self._session.tokens) - 1)
            self._add(kind, "\n")
        text: str = self._tokenizer.decode(generated.tokens, skip_special_tokens=True)
        return text.strip()

    def _tell(self, step: str, asked: int, step_took: Generated, without_s: float | None) -> None:
        self._totals.tokens += asked
        self._totals.reused += step_took.reused
        if without_s is not None:
            self._totals.ttft_s.append((step_took.ttft_s, without_s))
        print(
            f"{step:<10}{asked:>8}{step_took.reused:>8}  "
            f"{', '.join(step_took.by_tier) or '-':<16}{asked - step_took.reused:>8}"
            f"{len(step_took.tokens):>6}{1e3 * step_took.ttft_s:>7.0f} ms"
            + (f"{1e3 * without_s:>7.0f} ms" if without_s is not None else f"{'':>10}"),
            flush=True,
        )

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return tokens


def _called(name: str, line: str, question: str) -> str:
    """Return what a tool makes of its input, or of the question; "" if of neither."""
    for given in (line, question):
        try:
            result = TOOLS[name](given)
        except ToolFailed as error:
            print(f"  {name} failed: {error}")
        else:
            print(f"  {name}({given!r}) = {result}")
            return result
    return ""


def _measured_without(model: Any, history: Sequence[int]) -> float:
    """Return how long the model takes to the first token when it computes all of `history`."""
    import torch

    started_s = time.monotonic()
    with torch.no_grad():
        int(model(torch.tensor([history]), logits_to_keep=1).logits[0, -1].argmax())
    return time.monotonic() - started_s


@contextmanager
def _engine(args: argparse.Namespace) -> Iterator[tuple[Engine, Any, Any]]:
    """Make the engine that the command line asks for; with its tokenizer, and what measures."""
    model, tokenizer = loaded(converted(args.weights))
    if args.server:
        from tierd_client.engines.server_engine import ServerEngine

        yield ServerEngine(args.server, args.served_name), tokenizer, None
        return
    from tierd_client.engines.local_engine import LocalEngine

    with _daemon(args) as address, connect(address, name="example agent") as client:
        print(f"tierd at {address or 'its default socket'}, tiers: {', '.join(client.tiers)}\n")

        def without(history: Sequence[int]) -> float:
            return _measured_without(model, history)

        # A model's first pass sets much up: neither side of the comparison is to pay for that.
        without(range(64))
        yield LocalEngine(client, model), tokenizer, None if args.no_compare else without


@contextmanager
def _daemon(args: argparse.Namespace) -> Iterator[str]:
    if not args.embedded:
        yield args.daemon
        return
    from tierd_bench.replay.embedded import embedded_daemon

    settings = ("tiers.host.bytes=1GiB", "tiers.disk.bytes=2GiB")
    with embedded_daemon(settings, args.directory) as daemon:
        yield daemon.address


def _run(args: argparse.Namespace) -> None:
    totals = Totals()
    with _engine(args) as (engine, tokenizer, without):

        def session() -> AgentSession:
            system, tools = (
                tokenizer(text, add_special_tokens=False).input_ids
                for text in (SYSTEM, DEFINITIONS)
            )
            return AgentSession(engine, system=system, tools=tools)

        with session() as first:
            agent = Agent(first, tokenizer, without, totals)
            for question in args.ask or QUESTIONS:
                print(f"question: {question}\n{_HEADER}")
                agent.ask(question)
            agent.note()
        with session() as second:
            print(f"another session, with the same system prompt and tools\nquestion: {SECOND}")
            print(_HEADER)
            Agent(second, tokenizer, without, totals).ask(SECOND)
    ratio = 100 * totals.reused / max(1, totals.tokens)
    print(f"{totals.tokens} tokens of history in all steps, {ratio:.1f} % of them reused")
    if totals.ttft_s:
        ours, plain = (sum(times) for times in zip(*totals.ttft_s, strict=True))
        print(f"first steps of turns: TTFT {ours:.2f} s with tierd, {plain:.2f} s without, in all")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[2])
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--daemon",
        default="",
        metavar="ADDRESS",
        help="unix:/path, /path or host:port; the default socket of `tierd serve` if left out",
    )
    where.add_argument(
        "--embedded", action="store_true", help="start a daemon for this run, and stop it after"
    )
    where.add_argument(
        "--server", metavar="URL", help="a vLLM server of the same weights, instead of this process"
    )
    parser.add_argument(
        "--served-name", default="smollm2", metavar="NAME", help="what that server calls the model"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=DEFAULT,
        metavar="DIRECTORY",
        help="where the converted weights are, or are to be kept (%(default)s)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIRECTORY",
        help="where the embedded daemon keeps blocks, for the next run; temporary if left out",
    )
    parser.add_argument(
        "--ask", action="append", metavar="QUESTION", help="instead of the questions in the script"
    )
    parser.add_argument(
        "--no-compare", action="store_true", help="do not measure the TTFT without tierd"
    )
    return parser.parse_args()


def main() -> int:
    """Run the agent; return the exit status."""
    args = _arguments()
    try:
        _run(args)
    except SetupFailed as error:
        print(f"agent: {error}", file=sys.stderr)
    except TierdError as error:
        print(f"agent: {error}", file=sys.stderr)
        if not args.server:
            print("--daemon says where one is, --embedded starts one for the run", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
