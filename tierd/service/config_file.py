"""From `tierd.toml` and `--set` to a `Config`, or to a list of what is wrong and what to do.

What the settings are, and mean, is `config`'s. This module reads, explains and prints them.
"""

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tierd.service.config import Config, Section, size_text

COLUMNS = 100
SET = "--set"
EXAMPLE = "see `tierd config` for every key, its default and the reason"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings, where it stands, and what to do about it."""

    where: str
    setting: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.setting) if part)
        return f"{head}\n    {self.wrong}\n    -> {self.remedy}"


@dataclass(eq=False)
class ConfigError(Exception):
    """The settings cannot be used. Nothing was started; every problem found is listed."""

    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of the file at `path`, if any, with `overrides` (`a.b=value`) on top.

    An override's value is written as in TOML; what is not TOML, such as 8GiB, is a string.

    Raises:
        ConfigError: the file cannot be read, or some settings are unknown, wrong, or at odds.
    """
    text = "" if path is None else _read(path)
    settings = _parse(path, text)
    overridden: set[str] = set()
    for override in overrides:
        overridden.add(_apply(settings, override))
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        sources = _Sources(path, text, frozenset(overridden))
        problems = [_problem(details, settings, sources) for details in error.errors()]
        raise ConfigError(tuple(problems)) from None


def render_toml(config: Config) -> str:
    """Return `config` as a TOML file that reads back equal, each key with default and reason."""
    lines: list[str] = []
    for path, section in _sections("", config):
        leaves = [
            (name, field)
            for name, field in type(section).model_fields.items()
            if not isinstance(getattr(section, name), Section)
        ]
        if leaves:
            lines += ["", f"# {type(section).__doc__}", f"[{path}]"]
        for name, field in leaves:
            default = _toml(field.get_default(call_default_factory=True))
            lines += ["", *_comment(f"{field.description} Default: {default}")]
            lines.append(f"{name} = {_toml(getattr(section, name))}")
    return "\n".join(lines[1:]) + "\n"


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where each setting was written, to be named in a problem."""

    path: Path | None
    text: str
    overridden: frozenset[str]

    def where(self, key: str) -> str:
        if any(key == other or key.startswith(f"{other}.") for other in self.overridden):
            return SET
        if self.path is None:
            return SET if self.overridden else ""
        line = _line_of(self.text, key)
        return str(self.path) if line is None else f"{self.path}, line {line}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        wrong, remedy = f"cannot be read: {error.strerror}", "give the path of a readable file"
    except UnicodeDecodeError as error:
        wrong, remedy = f"is not UTF-8: {error.reason}", "save the file as UTF-8"
    raise ConfigError((Problem(str(path), "", wrong, remedy),))


def _parse(path: Path | None, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        remedy = 'quote strings and sizes, as in bytes = "8GiB"'
        raise ConfigError((Problem(str(path), "", f"is not TOML: {error}", remedy),)) from None


def _apply(settings: dict[str, Any], override: str) -> str:
    """Write one `a.b=value` into `settings`; return its key."""
    key, equals, value = (part.strip() for part in override.partition("="))
    *tables, name = key.split(".")
    if not (equals and name and all(tables)):
        raise ConfigError(
            (Problem(SET, override, "is not key=value", "write, say, tiers.host.bytes=8GiB"),)
        )
    table = settings
    for part in tables:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            wrong, remedy = f"{part} is a value in the file, and no table", EXAMPLE
            raise ConfigError((Problem(SET, override, wrong, remedy),))
        table = inner
    try:
        table[name] = tomllib.loads(f"it = {value}")["it"]
    except tomllib.TOMLDecodeError:
        table[name] = value
    return key


def _problem(details: ErrorDetails, settings: Mapping[str, Any], sources: _Sources) -> Problem:
    """Put one of pydantic's complaints into this project's words."""
    context = details.get("ctx", {})
    if details["type"] == "contradiction":
        key: str = context["key"]
        setting = f"{key} = {_toml(_written(settings, key))}"
        return Problem(sources.where(key), setting, context["wrong"], context["remedy"])
    key = ".".join(part for part in details["loc"] if isinstance(part, str))
    setting = f"{key} = {_toml(details['input'])}"
    if details["type"] == "extra_forbidden":
        return Problem(sources.where(key), setting, "unknown key", _nearest(key))
    return Problem(sources.where(key), setting, _wrong(details), _remedy(key, details["type"]))


def _wrong(details: ErrorDetails) -> str:
    if details["type"] == "model_type":
        return "should be a table"
    if details["type"].startswith("byte_size"):
        return "is no size"
    return details["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)


def _remedy(key: str, error_type: str) -> str:
    field = dict(_leaves("", Config)).get(key)
    if field is None:
        return EXAMPLE
    default = f"{key} = {_toml(field.get_default(call_default_factory=True))}"
    if error_type.startswith("byte_size"):
        return f"write bytes or a size such as 512MiB or 8GiB; the default is {default}"
    return f"the default is {default}; `tierd config` gives the reason"


def _nearest(key: str) -> str:
    """Return advice for an unknown key: the known one that it resembles, if any."""
    known = [known for known, _ in _leaves("", Config)]
    known += sorted({table for leaf in known for table in _parents(leaf)})
    if same_name := [other for other in known if other.rpartition(".")[2] == key]:
        return f"did you mean {' or '.join(same_name)}?"
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    return EXAMPLE


def _parents(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _leaves(prefix: str, section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every known key, dotted, with its field."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _leaves(f"{prefix}{name}.", kind)
        else:
            yield prefix + name, field


def _sections(path: str, section: Section) -> Iterator[tuple[str, Section]]:
    """Yield `section` and those inside it, each with its dotted path."""
    yield path, section
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Section):
            yield from _sections(f"{path}.{name}".lstrip("."), inner)


def _written(settings: Mapping[str, Any], key: str) -> object:
    """Return the value that was written for `key`, or its default."""
    value: Any = settings
    for part in key.split("."):
        if not (isinstance(value, Mapping) and part in value):
            return dict(_leaves("", Config))[key].get_default(call_default_factory=True)
        value = value[part]
    return value


def _line_of(text: str, key: str) -> int | None:
    """Return the line on which `key`, or the innermost table around it, is written.

    tomllib keeps no lines. Looking for the key in its table is right for all but keys that
    are quoted or written inside an inline table; for those it gives the table's line.
    """
    table, best, best_parts = "", None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([\w.\- ]+?)\s*\]", line):
            table = written = header[1]
        elif assignment := re.match(r"\s*([\w.\- ]+?)\s*=", line):
            written = f"{table}.{assignment[1]}".lstrip(".")
        else:
            continue
        written = re.sub(r"\s*\.\s*", ".", written)
        shared = _shared_parts(key, written)
        if shared > best_parts:
            best, best_parts = number, shared
    return best


def _shared_parts(key: str, written: str) -> int:
    """Return how many parts of its dotted path `written` tells of `key`; 0 if it is elsewhere."""
    ours, theirs = key.split("."), written.split(".")
    shared = min(len(ours), len(theirs))
    return shared if ours[:shared] == theirs[:shared] else 0


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent="# ", subsequent_indent="# ")


def _toml(value: object) -> str:
    """Return `value` as TOML writes it; sizes in the largest unit that is exact."""
    match value:
        case ByteSize():
            return f'"{size_text(value)}"' if value else "0"
        case bool() | int() | float():
            return json.dumps(value)
        case list() | tuple():
            return f"[{', '.join(_toml(part) for part in value)}]"
        case Mapping():
            return (
                "{ " + ", ".join(f"{name} = {_toml(part)}" for name, part in value.items()) + " }"
            )
        case _:
            return json.dumps(str(value), ensure_ascii=False)
