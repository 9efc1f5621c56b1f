"""What a synthetic agent trace should look like: its figures, and the named ones.

Making a trace of them is left to `generate` and the shapes of its sessions to `shapes`.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Workload:
    """Means over sessions; `append`, `output` and `context` are means over a session's turns.

    In tokens, where no unit is named. A turn sends its `context` (all earlier turns) and an
    `append`, and gets an `output`. `total` is a session's whole length at its end, None for what
    the other means come to if all sessions are alike. As means of sessions, turns x (append +
    output) may be far above `total`: sessions of few turns then add much a turn, and the spread
    of turns follows from it. `total_max` bounds the length of every session.

    `hit_rate` is the share of all prompt tokens that an infinite cache would hit, repeats within
    the session only; None leaves it to the other figures. Beside means it asks for a relation:
    it is lower when sessions of many turns grow late and those of few start with much.

    `shared_prompt` is the head (system prompt and tools) that all sessions have in common, and a
    part of each one's first append. `compacted_ratio` of the sessions once replace everything
    after it by a summary of `summary` tokens, which breaks their prefix there.

    Gaps are medians: `tool_ratio` of the later turns bring a tool's result, the rest a person's
    words. Sessions arrive at random, `sessions_per_s` of them.
    """

    turns: float
    append: float
    output: float
    context: float
    total: float | None
    total_max: int
    hit_rate: float | None = None
    shared_prompt: int = 0
    compacted_ratio: float = 0.0
    summary: int = 0
    tool_ratio: float = 1.0
    tool_gap_s: float = 0.0
    user_gap_s: float = 0.0
    sessions_per_s: float = 1.0
    append_spread: float = 0.9
    """Sigma of the lognormal factor between one append and the next, and half of it, of outputs."""

    @property
    def mean_total(self) -> float:
        """Mean length of a session at its end."""
        return self.turns * (self.append + self.output) if self.total is None else self.total


@dataclass(frozen=True, slots=True)
class Preset:
    """A workload by name, with the number of sessions it is meant for."""

    workload: Workload
    sessions: int
    about: str


def _dualpath(
    thousand: int, turns: int, append: int, output: int, total: int, context: int, hit_rate: float
) -> Preset:
    workload = Workload(turns, append, output, context, total, thousand << 10, hit_rate)
    about = (
        f"coding agents at most {thousand}K tokens long, replayed without gaps; DualPath, table 2"
    )
    return Preset(workload, 500, about)


# Source of the first three: DualPath (arXiv 2602.21548), its three datasets. Hit rates are
# context / (context + append) of the published means; outputs count as append where only prompts
# are cached, so a trace that meets them on its prompts alone has to vary as described above.
PRESETS: Final = {
    "dualpath-32k": _dualpath(32, 60, 608, 148, 28_639, 17_183, 0.966),
    "dualpath-48k": _dualpath(48, 106, 474, 172, 42_607, 25_120, 0.981),
    "dualpath-64k": _dualpath(64, 157, 429, 176, 55_958, 32_721, 0.987),
    "agent-demo": Preset(
        Workload(
            turns=8,
            append=140,
            output=55,
            context=660,
            total=1200,
            total_max=1792,
            shared_prompt=256,
            compacted_ratio=0.2,
            summary=80,
            tool_ratio=0.85,
            tool_gap_s=0.25,
            user_gap_s=4.0,
            sessions_per_s=2.0,
        ),
        40,
        "small tool-using agents with one system prompt; a fifth compacts once; sized for a demo",
    ),
}
