"""Every constant that the DualPath paper does not give, in one place, with where it is from.

Two of them were fitted, each to one figure of the ablation. The size of steps without quota, one
buffer for all engines of a node, and the balance windows were chosen with the ablation's figures in
sight: its middle step and the balances are therefore weaker evidence than the laws of the NICs, for
which nothing was fitted.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Assumption:
    """A constant, and why it has its value."""

    name: str
    value: float
    unit: str
    why: str


ASSUMPTIONS: Final[list[Assumption]] = []
"""All of them, for reports."""


def _assume(name: str, value: float, unit: str, why: str) -> float:
    ASSUMPTIONS.append(Assumption(name, value, unit, why))
    return value


EFFECTIVE_FLOPS: Final = _assume(
    "FLOP/s that a prefilling GPU reaches",
    195e12,
    "FLOP/s",
    "fitted to the last step of the ablation (-45.6 %), where the paper's system is about as fast "
    "as with free I/O, so that computing sets the time. DeepSeek's published V3 serving figures "
    "come to about 300e12, with shorter contexts",
)
PREFILL_RESERVE_BYTES: Final = _assume(
    "GPU memory of prefill that neither weights nor KV get",
    24.9e9,
    "bytes",
    "fitted to the first step of the ablation (-17.2 %): activations and buffers of collectives. "
    "Only Basic, which holds the KV of whole requests, depends on it",
)
HBM_BYTES_PER_S: Final = _assume(
    "memory bandwidth of a GPU", 3.35e12, "bytes/s", "data sheet of a Hopper GPU"
)
HBM_USABLE_BYTES: Final = _assume(
    "GPU memory for weights and KV",
    0.9 * 80e9,
    "bytes",
    "80 GB less a tenth, as inference engines have it",
)
PREFILL_OVERHEAD_S: Final = _assume(
    "launches and collectives of a prefill step", 0.02, "s", "assumed"
)
DECODE_OVERHEAD_S: Final = _assume(
    "launches and collectives of a decode step", 0.01, "s", "assumed; TPOT stays under 50 ms"
)
CHUNK_TOKENS: Final = int(
    _assume(
        "new tokens of an engine's step without quota",
        1024,
        "tokens",
        "assumed: at the paper's mean turn their attention takes about what the quota allows, so "
        "that the ablation compares the packing and not the size of steps. Chosen with its middle "
        "step in sight",
    )
)
FETCH_INTERVAL_S: Final = _assume(
    "time between fetches of a group", 0.05, "s", "the paper says periodically; short beside a turn"
)
UNEVENNESS_OF_TURNS: Final = _assume(
    "standard deviation over mean of what a turn adds", 1.0, "", "assumed (exponential)"
)
EXTRA_ROUND_TOKENS: Final = int(
    _assume("random tokens before a repeated trajectory", 64, "tokens", "the paper gives no number")
)
SPLIT_CHUNKS: Final = int(
    _assume("pieces of a two-ended read", 8, "", "few events; an eighth of a read is a few ms")
)
BALANCE_WINDOW_BYTES: Final = _assume(
    "storage NICs are compared over windows in which one can read",
    3e12,
    "bytes",
    "a minute of the paper's NIC, so that nodes of any size are compared over as many reads; the "
    "paper gives no window, and shorter ones show more",
)
SMALL_MODEL_PARAMS: Final = _assume(
    "active parameters of DS-27B",
    3.8e9,
    "",
    "the model is not published; 30 layers and 3.8e9 are those of DeepSeek's other 27B models",
)
