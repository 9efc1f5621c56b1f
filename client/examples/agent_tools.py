"""The tools of the example agent: real, local and harmless. Each takes and returns a line."""

import ast
import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

BOOK: Final = """\
The Sun is a star, and holds more than 99 percent of the mass of the solar system.
Mercury is the planet closest to the Sun, and has no moons.
Venus is the hottest planet: its surface has about 465 degrees celsius.
Earth has one moon, the Moon, 384,400 km away.
Mars has two moons, Phobos and Deimos, discovered by Asaph Hall in 1877.
Jupiter is the largest planet of the solar system, and has 95 known moons.
Io, Europa, Ganymede and Callisto were discovered by Galileo Galilei in 1610.
Saturn has bright rings of ice; its largest moon is Titan.
The moon Titan was discovered by Christiaan Huygens in 1655.
Uranus was discovered by William Herschel in 1781, and lies on its side.
Neptune is the planet farthest from the Sun; it was discovered by Johann Galle in 1846.
Pluto is a dwarf planet, discovered by Clyde Tombaugh in 1930.
"""

_OPERATORS: Final[dict[type, Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

_UNITS: Final[dict[str, tuple[str, float]]] = {
    "meter": ("length", 1.0),
    "kilometer": ("length", 1000.0),
    "km": ("length", 1000.0),
    "centimeter": ("length", 0.01),
    "mile": ("length", 1609.344),
    "foot": ("length", 0.3048),
    "inch": ("length", 0.0254),
    "kilogram": ("weight", 1.0),
    "kg": ("weight", 1.0),
    "gram": ("weight", 0.001),
    "pound": ("weight", 0.45359237),
    "ounce": ("weight", 0.028349523125),
}

_COMMON: Final = frozenset(
    {"a", "an", "and", "are", "by", "from", "has", "have", "how", "in", "is", "it", "many", "of"}
    | {"the", "what", "which", "who"}
)
_FOUND_MAX: Final = 2


class ToolFailed(Exception):
    """The input is not one that the tool can work with."""


def calculator(line: str) -> str:
    """Work out the longest expression of + - * / ( ) and numbers in `line`."""
    found = max(re.findall(r"[\d.+\-*/() ]+", line), key=len, default="").strip()
    try:
        body = ast.parse(found, mode="eval").body
        if isinstance(body, ast.Constant):
            raise ToolFailed(f"only a number in {line!r}")
        return f"{_value(body):g}"
    except (SyntaxError, ZeroDivisionError, RecursionError) as error:
        raise ToolFailed(f"no expression in {line!r}") from error


def convert(line: str) -> str:
    """Convert the first number of `line` from the unit beside it to the other that is named."""
    number = re.search(r"-?\d+(?:\.\d+)?", line)
    named = [name for name in map(_unit, re.findall(r"[a-z]+", line.lower())) if name]
    beside = re.match(r"\s*([a-z]+)", line[number.end() :].lower()) if number else None
    source = _unit(beside[1]) if beside else ""
    target = next((name for name in named if name != source), "")
    if number is None or not source or not target or _UNITS[source][0] != _UNITS[target][0]:
        raise ToolFailed(f"not a number with a unit, and another unit: {line!r}")
    value = float(number[0]) * _UNITS[source][1] / _UNITS[target][1]
    return f"{number[0]} {source} = {value:.2f} {target}"


def book(line: str) -> str:
    """Return the sentences of the book that have most of the words of `line`."""
    words = _words(line)
    scored = [(len(words & _words(sentence)), sentence) for sentence in BOOK.splitlines()]
    best = max(score for score, _ in scored)
    if not best:
        raise ToolFailed(f"the book has none of these words: {line!r}")
    return " ".join([sentence for score, sentence in scored if score == best][:_FOUND_MAX])


def clock(line: str) -> str:
    """Return the date and the time, whatever `line` says."""
    return f"{datetime.now(UTC):%A, %d %B %Y, %H:%M} UTC"


TOOLS: Final[dict[str, Callable[[str], str]]] = {
    "clock": clock,
    "calculator": calculator,
    "convert": convert,
    "book": book,
}


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise SyntaxError("not arithmetic")


def _unit(word: str) -> str:
    singular = {"feet": "foot", "inches": "inch"}.get(word, word.removesuffix("s"))
    return singular if singular in _UNITS else ""


def _words(text: str) -> set[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {word.removesuffix("s") for word in words if word not in _COMMON}
