"""Every policy as a share of the optimum: the rows of many simulations in one table.

    tierd simulate TRACE --policy all --capacity 0.5%,1%,...,50% --hints --json REPORT.json
    python -m tierd_bench.shares bench/results/policies.json REPORT.json...

Reports of one trace are put together, so that policies may be simulated one after another.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

_DIGITS: Final = 4
_ABOUT: Final = ("name", "block_tokens", "block_references", "unique_blocks", "sample_ratio")


def shares(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each trace: hit rates of the bounds, and what policies reach of them.

    Units: `optimum_share` is the hit rate over Belady's; `over_chain_lru_points` the difference
    to chain LRU in points of hit rate. Lists have one place for each capacity.
    """
    rows: dict[str, dict[str, Any]] = {}
    for report in reports:
        trace, runs = report["trace"], report["runs"]
        row = rows.setdefault(trace["name"], {key: trace[key] for key in _ABOUT} | {"policies": {}})
        for policy in dict.fromkeys(run["policy"] for run in runs):
            own = [run for run in runs if run["policy"] == policy]
            row["capacity_shares"] = [run["capacity_share"] for run in own]
            row["policies"][policy] = {
                "hit_rate": [round(run["hit_rate"], _DIGITS) for run in own],
                "optimum_share": [round(run["optimum_share"], _DIGITS) for run in own],
            }
    for row in rows.values():
        policies = row["policies"]
        floor = policies["chain_lru"]["hit_rate"]
        for figures in policies.values():
            differences = zip(figures["hit_rate"], floor, strict=True)
            figures["over_chain_lru_points"] = [round(100 * (a - b), 2) for a, b in differences]
    return list(rows.values())


def main(
    out: Annotated[Path, typer.Argument(help="Where to write the table, as JSON.")],
    reports: Annotated[list[Path], typer.Argument(help="What `tierd simulate --json` wrote.")],
) -> None:
    """Put simulations together to a table of policies as shares of the optimum."""
    rows = shares([json.loads(path.read_text()) for path in reports])
    lines = ",\n".join(json.dumps(row) for row in rows)
    out.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    typer.run(main)
