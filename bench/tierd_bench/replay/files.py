"""Writes reports to files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiofiles


async def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` to `path`, indented."""
    await write_text(path, json.dumps(values, indent=2) + "\n")


async def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, replacing what is there."""
    async with aiofiles.open(path, "w", encoding="utf-8") as file:
        await file.write(text)
