"""Figures of the DualPath paper (arXiv 2602.21548) that the simulation is held against."""

from typing import Final

TABLE_1: Final = {
    "qwen2.5-32b": (117.0, 267.0),
    "gpt-oss-120b": (47.0, 95.0),
    "qwen3-235b": (39.0, 60.0),
}
"""GB of KV a PFLOP at 16K and at 64K tokens of context, 429 appended."""

TABLE_1_CONTEXTS: Final = (16 * 1024, 64 * 1024)
TABLE_1_APPEND: Final = 429

ABLATION: Final = {"layerwise": -17.21, "two-paths": -38.19, "dualpath": -45.62}
"""JCT against Basic in %, DS-660B, 64K, 2P4D, 1,024 and 2,048 agents."""

NIC_IMBALANCE: Final = {"two-paths": 1.53, "dualpath": 1.18}
"""Busiest storage NIC over the mean, round robin and with the scheduler."""

ATTENTION_IMBALANCE: Final = 1.06
"""Longest attention time over the mean."""

ONLINE_GAIN: Final = {"ds-660b": 2.25, "ds-27b": 1.67}
"""Agent arrivals a second within the SLO, DualPath over Basic."""

SLO_TTFT_S: Final = 4.0
SLO_TPOT_MS: Final = 50.0

FREE_RANGE: Final = (1 / 7, 7 / 2)
"""P/D without bottleneck at g = 8, s = 1, M = 500 GB/s, B s = 50 GB/s."""
