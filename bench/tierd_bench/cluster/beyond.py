"""Where the paper stops: reads split over both sides, finite caches, agents that wait for tools."""

from typing import Any, Final

from tierd_bench.cluster.measures import Figures
from tierd_bench.cluster.simulate import Scenario
from tierd_bench.cluster.studies import Setup, Study, Tell, percent, run, shape_name

_FEW: Final = 8
_CACHES: Final = (0.1, 0.5)
_STORES: Final = (0.9, 0.5)
_TOOL_S: Final = 2.0


def beyond(setup: Setup, tell: Tell) -> Study:
    """Compare each step past the paper with DualPath in the same configuration."""
    shape = setup.shape or (2, 2)
    count = setup.agents or 64 * setup.hardware.gpus
    dualpath = setup.scenario("dualpath", "ds-27b", "64k", shape, count)
    base = run(dualpath, tell)
    rows = [_row("DualPath", base, base)]
    for name in ("split", "two-ended"):
        scenario = setup.scenario(name, "ds-27b", "64k", shape, count)
        rows.append(_row(f"{name} reads", run(scenario, tell), base))
    few = run(setup.scenario("dualpath", "ds-27b", "64k", shape, _FEW), tell)
    rows.append(_row(f"DualPath, {_FEW} agents", few, few))
    for name in ("split", "two-ended"):
        scenario = setup.scenario(name, "ds-27b", "64k", shape, _FEW)
        rows.append(_row(f"{name} reads, {_FEW} agents", run(scenario, tell), few))
    rows += _with_tools(dualpath, tell)
    return Study(
        "beyond",
        "Past the paper",
        f"Offline, {shape_name(shape)} nodes of {setup.hardware.gpus} GPUs, {count} agents "
        "unless said. JCT and TTFT against DualPath with as many agents and tools as slow. Caches "
        "are least recently used, a context's end first; what storage lost is computed again.",
        rows,
        [],
    )


def _with_tools(dualpath: Scenario, tell: Tell) -> list[dict[str, Any]]:
    """Return rows of agents that wait for tools between turns, with caches of several sizes.

    Without a wait an agent's context was used a moment ago and no cache is ever tested.
    """
    base = run(dualpath, tell, tool_s=_TOOL_S)
    tools = f"tools take {_TOOL_S:.0f} s"
    rows = [_row(f"{tools}: DualPath", base, base)]
    working_set = base.working_set_gb * 1e9
    nodes = dualpath.prefill_nodes + dualpath.decode_nodes
    for share in _CACHES:
        size = share * working_set / nodes
        name = f"{tools}, DRAM caches {100 * share:.0f} % of the working set"
        rows.append(_row(name, run(dualpath, tell, tool_s=_TOOL_S, cache_bytes=size), base))
    for share in _STORES:
        name = f"{tools}, storage keeps {100 * share:.0f} % of it"
        size = share * working_set
        rows.append(_row(name, run(dualpath, tell, tool_s=_TOOL_S, store_bytes=size), base))
    return rows


def _row(name: str, figures: Figures, base: Figures) -> dict[str, Any]:
    return {
        "what": name,
        "jct_s": round(figures.jct_s, 1),
        "jct_change": round(percent(figures.jct_s, base.jct_s), 1),
        "ttft_s": round(figures.ttft_s, 3),
        "ttft_change": round(percent(figures.ttft_s, base.ttft_s), 1),
        "read_s": round(figures.read_s, 3),
        "nics_used": round(figures.nics_used, 2),
        "cached": round(100 * figures.cached_share, 1),
        "recomputed": round(100 * figures.recomputed_share, 1),
        "working_set_gb": round(figures.working_set_gb),
    }
