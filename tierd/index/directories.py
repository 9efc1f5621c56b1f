"""Which directories belong together: each has an identity, and the index knows those of all.

An identity is a file in the directory, so it goes where the directory goes: to another path,
another mount, another machine. What becomes of a directory that is missing is left to callers.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Final

ID_NAME: Final = "tierd.id"


def identity(directory: Path) -> str:
    """Return the identity of `directory`, or "" if it has none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return (directory / ID_NAME).read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def identify(directory: Path) -> str:
    """Return the identity of `directory`, which gets one, durably, if it has none.

    Raises:
        OSError: it cannot be written.
    """
    known = identity(directory)
    if known:
        return known
    made = token_hex(16)
    fresh = directory / f"{ID_NAME}.new"
    with fresh.open("w") as file:
        file.write(f"{made}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(directory / ID_NAME)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return made


def identified(directories: Sequence[Path]) -> dict[str, str]:
    """Return what an index remembers of `directories`: the identity of each, and its path.

    Raises:
        OSError: one cannot be written.
    """
    return {identify(directory): str(directory.resolve()) for directory in directories}


def missing(known: dict[str, str], directories: Sequence[Path]) -> list[str]:
    """Return the paths of the `known` directories that are not among `directories`.

    Raises:
        OSError: one cannot be read.
    """
    given = {identity(directory) for directory in directories}
    return [path for each, path in known.items() if each not in given]
