"""Small traces in Mooncake's format."""

import json
from collections.abc import Sequence
from pathlib import Path

BLOCK_TOKENS = 16


def write_trace(path: Path, chains: Sequence[Sequence[int]], tail: int = 5) -> None:
    """Write requests for chains of blocks and a tail without a block, one a second."""
    lines = [
        json.dumps(
            {
                "timestamp": 1000 * at,
                "input_length": BLOCK_TOKENS * len(chain) + tail,
                "output_length": 1,
                "hash_ids": list(chain),
                "block_size": BLOCK_TOKENS,
            }
        )
        for at, chain in enumerate(chains)
    ]
    path.write_text("\n".join(lines))
