"""Keeps a benchmark's figures, so that later ones can be compared with them."""

import json
from pathlib import Path

import aiofiles

from tierd_bench.bench.run import BenchReport


async def append_lines(path: Path, report: BenchReport) -> None:
    """Add one line of JSON for each row to `path`, which may not exist yet."""
    lines = "".join(json.dumps(record) + "\n" for record in report.as_lines())
    async with aiofiles.open(path, "a", encoding="utf-8") as file:
        await file.write(lines)
