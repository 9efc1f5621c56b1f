"""What the workers' KV is like: as LMCache writes it."""

from typing import Final

BLOCK_TOKENS: Final = 16
"""Of a block of the workers, and of a chunk of the server."""

CHUNKS: Final = 8
"""Of every sequence."""

SHAPE: Final = "(2,256,16,2,16):bfloat16:3"
"""Keys and values, blocks, tokens of a block, heads, head size; dtype; layers."""

OTHER: Final = "(2,256,16,2,8):float32:3"
"""As many bytes, and another dtype."""
