"""The studies that repeat what the paper reports: ratios, NIC law, free range, ablation, online."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from random import Random
from statistics import fmean
from typing import Any, Final

from tierd_bench.cluster import paper
from tierd_bench.cluster.analysis import bounds, free_range, load_of
from tierd_bench.cluster.measures import Figures
from tierd_bench.cluster.models import MODELS, Hardware, Model
from tierd_bench.cluster.simulate import Scenario
from tierd_bench.cluster.studies import (
    Claim,
    Setup,
    Shape,
    Study,
    Tell,
    percent,
    run,
    shape_name,
)
from tierd_bench.cluster.workload import DATASETS, Dataset, trajectories

ABLATION_SYSTEMS: Final = ("basic", "layerwise", "two-paths", "dualpath", "oracle")
ABLATION_TOLERANCE: Final = 5.0
"""Points of JCT. Two constants of the model were fitted to the first and the last step."""

BALANCE_TOLERANCE: Final = 0.15
"""Of busiest over mean: what windows and the size of nodes make of it (assumptions.py)."""

AGENTS_A_GPU: Final = 128
"""Agents for each GPU of a prefill node and the storage NIC behind it, as 1,024 on 2P4D."""

_SHAPES: Final[tuple[Shape, ...]] = ((1, 1), (1, 2), (2, 1))
_RANGE: Final[tuple[Shape, ...]] = (
    *((1, 12), (1, 9), (1, 7), (1, 4), (1, 2), (1, 1)),
    *((2, 1), (3, 1), (7, 2), (5, 1), (7, 1)),
)
_RATES: Final = (0.45, 0.75, 0.9, 1.05, 1.3, 1.6, 1.9)
_ONLINE_S: Final = 1500.0

_STORAGE_BOUND: Final = 0.85
"""Storage limits where it takes up to this much of what can be computed; near 1 both do."""

_SPARE: Final = 0.95
"""A resource needed more than this may hold the NICs back when requests come in bursts, as they do:
the bounds are for even loads."""

_IO_ONLY: Final = Dataset("reads only", 64 * 1024, 30, 64, 1, 60_000, 58_000)
"""Long contexts, one token of answer: nearly all of the work is moving hits."""


def table_1(_: Setup, __: Tell) -> Study:
    """Bytes to load over FLOPs to compute (section 1.1): a formula, not a simulation."""
    rows: list[dict[str, Any]] = []
    claims: list[Claim] = []
    for name, model in MODELS.items():
        wanted = paper.TABLE_1.get(name)
        for place, context in enumerate(paper.TABLE_1_CONTEXTS):
            ratio = model.cache_compute_ratio(paper.TABLE_1_APPEND, context)
            row = {"model": name, "context": context, "gb_per_pflop": round(ratio, 1)}
            rows.append({**row, "paper": wanted[place] if wanted else None})
            if wanted:
                about = f"{name} at {context // 1024}K"
                tolerance = 0.01 * wanted[place]
                claims.append(
                    Claim(about, ratio, wanted[place], tolerance, "GB/PFLOP", "paper, Table 1")
                )
    return Study(
        "table1",
        "KV to load for each PFLOP to compute",
        "Formula of section 1.1 with 429 tokens appended. The DeepSeek models have sparse "
        "attention, for which the paper gives no formula: they are shown without a claim.",
        rows,
        claims,
    )


def equivalences(setup: Setup, tell: Tell) -> Study:
    """Throughput follows the number of storage NICs that a system can read with (section 1.7)."""
    rows: list[dict[str, Any]] = []
    shapes = setup.shapes or _SHAPES
    for shape in shapes:
        for system in ("basic", "dualpath"):
            usable = shape[0] if system == "basic" else sum(shape)
            # Enough to keep the NICs busy, by the fewest that any of the systems can use.
            count = setup.agents or _saturating(setup.hardware, usable)
            scenario = setup.scenario(system, "ds-27b", "64k", shape, count)
            limit = _compute_limit(scenario)
            figures = run(scenario, tell)
            rows.append(
                {
                    "shape": shape_name(shape),
                    "system": system,
                    "usable_nics": usable,
                    "compute_limit": round(limit, 2),
                    "nics_used": round(figures.nics_used, 3),
                    "jct_s": round(figures.jct_s, 1),
                    "agents": count,
                }
            )
    claims = [*_same_nics(rows), *_gains(rows, shapes)]
    return Study(
        "equivalences",
        "Throughput follows the storage NICs that can be used",
        "Offline. Tokens read a second in the steady part of the run, over what one storage NIC "
        "reads. Basic reads with the P NICs of prefill nodes, DualPath with all P+D. Nothing is "
        "claimed where computing limits: compute limit is what the engines can compute, in "
        "NICs' worth of reading. It takes enough agents to keep the NICs busy.",
        rows,
        claims,
    )


def _saturating(hardware: Hardware, nics: int) -> int:
    return max(96, int(AGENTS_A_GPU / 2 * hardware.gpus * nics / 2))


def _compute_limit(scenario: Scenario) -> float:
    """Return how many storage NICs' worth of hits the engines can compute for."""
    turns = [turn for row in trajectories(scenario.dataset, Random(0)) for turn in row]
    model, gpus = scenario.model, scenario.hardware.gpus
    prefill_s = fmean(
        model.attention_s(turn.context, turn.append) + model.linear_s(turn.append) for turn in turns
    )
    prompt = fmean(turn.context + turn.append for turn in turns)
    steps = fmean(turn.generated for turn in turns)
    batch = max(1, int(model.decode_kv_tokens / prompt))
    decode_s = steps * model.decode_step_s(batch, batch * prompt) / batch
    turns_per_s = min(
        scenario.prefill_nodes * gpus / prefill_s, scenario.decode_nodes * gpus / decode_s
    )
    read = fmean(turn.context for turn in turns) * model.kv_bytes_per_token
    return turns_per_s * read / scenario.hardware.storage_nic


def _storage_bound(row: dict[str, Any]) -> bool:
    """Whether storage limits the row. A run too short for a steady part shows nothing."""
    limited = row["usable_nics"] <= _STORAGE_BOUND * row["compute_limit"]
    return bool(limited and row["nics_used"])


def _same_nics(rows: list[dict[str, Any]]) -> Iterable[Claim]:
    """Yield a claim for each two configurations with equally many usable NICs."""
    for place, first in enumerate(rows):
        for second in rows[place + 1 :]:
            same = first["usable_nics"] == second["usable_nics"]
            if not (same and _storage_bound(first) and _storage_bound(second)):
                continue
            about = f"{first['system']} {first['shape']} = {second['system']} {second['shape']}"
            ratio = second["nics_used"] / first["nics_used"]
            yield Claim(about, ratio, 1.0, 0.03, "x", "paper, section 1.7")


def _gains(rows: list[dict[str, Any]], shapes: Iterable[Shape]) -> Iterable[Claim]:
    found = {(row["shape"], row["system"]): row for row in rows}
    for shape in shapes:
        name = shape_name(shape)
        basic, dualpath = found[name, "basic"], found[name, "dualpath"]
        if not (_storage_bound(basic) and _storage_bound(dualpath)):
            continue
        gain = dualpath["nics_used"] / basic["nics_used"]
        ideal = sum(shape) / shape[0]
        yield Claim(f"gain of DualPath at {name}", gain, ideal, 0.03 * ideal, "x", "ideal, (P+D)/P")


def free_of_bottlenecks(setup: Setup, tell: Tell) -> Study:
    """Which P/D keeps all storage NICs busy (section 1.4): formulas, and a sweep across them."""
    least, most = free_range(setup.hardware)
    rows: list[dict[str, Any]] = []
    for shape in setup.shapes or _RANGE:
        loads = load_of(setup.hardware, *shape)
        busiest = max(loads, key=lambda name: loads[name])
        count = setup.agents or 12 * sum(shape) * setup.hardware.gpus
        asked = setup.scenario("dualpath", "ds-27b", "64k", shape, count)
        scenario = replace(asked, dataset=_IO_ONLY, model=_without_compute(asked.model))
        figures = run(scenario, tell)
        rows.append(
            {
                "shape": shape_name(shape),
                "p_over_d": round(shape[0] / shape[1], 4),
                "free": least <= shape[0] / shape[1] <= most,
                "nics_busy": round(figures.nics_used / sum(shape), 3),
                "predicted": round(min(1.0, 1 / loads[busiest]), 3),
                "busiest": busiest,
                "its_load": round(loads[busiest], 3),
            }
        )
    paper_range = free_range(Hardware())
    claims = [
        Claim(f"{end} P/D of the paper's node", found, wanted, 1e-6, "", "paper, section 1.4")
        for end, found, wanted in zip(("least", "most"), paper_range, paper.FREE_RANGE, strict=True)
    ]
    claims += [
        Claim(f"storage NICs busy at {row['shape']}", row["nics_busy"], 1.0, 0.05, "x", "formula")
        for row in rows
        if row["its_load"] <= _SPARE
    ]
    limits = "; ".join(
        f"{bound.resource}: P/D {'>=' if bound.least is not None else '<='} "
        f"{bound.least if bound.least is not None else bound.most:.3g}"
        for bound in bounds(setup.hardware)
    )
    return Study(
        "range",
        "P/D without bottleneck",
        f"Offline, reads only, DualPath. {limits}. Predicted: all storage NICs busy unless a "
        "resource would be needed more than it has.",
        rows,
        claims,
    )


def _without_compute(model: Model) -> Model:
    return replace(model, active_params=0.0, attention_width=0.0, index_width=0.0)


def ablation(setup: Setup, tell: Tell) -> Study:
    """Layerwise prefill, then both paths, then the scheduler (section 1.7)."""
    shape = setup.shape or (2, 4)
    count = setup.agents or AGENTS_A_GPU * setup.hardware.gpus * shape[0] // 2
    found: dict[str, Figures] = {}
    for system in ABLATION_SYSTEMS:
        found[system] = run(setup.scenario(system, "ds-660b", "64k", shape, count), tell)
    basic = found["basic"].jct_s
    rows = [
        {
            "system": name,
            "jct_s": round(one.jct_s, 1),
            "against_basic": round(percent(one.jct_s, basic), 2),
            "paper": paper.ABLATION.get(name),
            "nic_max_over_mean": round(one.nic_max_over_mean, 3),
            "attention_max_over_mean": round(one.attention_max_over_mean, 3),
            "nics_used": round(one.nics_used, 2),
            "ttft_s": round(one.ttft_s, 2),
            "read_s": round(one.read_s, 2),
            "prefill_s": round(one.prefill_s, 2),
            "decode_s": round(one.decode_s, 2),
        }
        for name, one in found.items()
    ]
    return Study(
        "ablation",
        "What each step brings",
        f"Offline, {shape_name(shape)} nodes of {setup.hardware.gpus} GPUs, {count} agents. "
        "Job completion time against Basic; balance of storage NICs over windows in which one can "
        "read 3 TB, a minute of the paper's.",
        rows,
        list(_ablation_claims(found, basic)),
    )


def _ablation_claims(found: dict[str, Figures], basic: float) -> Iterable[Claim]:
    source = "paper, section 1.7"
    for name, wanted in paper.ABLATION.items():
        gain = percent(found[name].jct_s, basic)
        yield Claim(f"JCT, {name} against basic", gain, wanted, ABLATION_TOLERANCE, "%", source)
    for name, wanted in paper.NIC_IMBALANCE.items():
        value = found[name].nic_max_over_mean
        yield Claim(f"storage NIC max/mean, {name}", value, wanted, BALANCE_TOLERANCE, "x", source)
    attention = found["dualpath"].attention_max_over_mean
    yield Claim(
        "attention max/mean, dualpath",
        attention,
        paper.ATTENTION_IMBALANCE,
        BALANCE_TOLERANCE,
        "x",
        source,
    )
    slower = found["dualpath"].jct_s / found["oracle"].jct_s
    yield Claim("JCT, dualpath over oracle", slower, 1.0, 0.1, "x", "paper: about Oracle")


def online(setup: Setup, tell: Tell) -> Study:
    """Agents arrive at random: how many a second, before TTFT or TPOT leaves the SLO."""
    shape = setup.shape or (2, 4)
    model = setup.model or MODELS["ds-660b"]
    dataset = setup.dataset or DATASETS["64k"]
    loaded = dataset.turns * dataset.context * model.kv_bytes_per_token
    limit = shape[0] * setup.hardware.storage_nic / loaded
    rows: list[dict[str, Any]] = []
    for system in ("basic", "dualpath"):
        for share in _RATES:
            rate = share * limit
            # More than ever arrive; those after the end do not.
            count = setup.agents or int(1.3 * rate * _ONLINE_S) + 30
            scenario = setup.scenario(system, model.name, dataset.name, shape, count)
            figures = run(scenario, tell, arrivals_per_s=rate, until_s=_ONLINE_S)
            met = _within_slo(figures)
            rows.append(
                {
                    "system": system,
                    "agents_per_s": round(rate, 4),
                    "of_basic_limit": share,
                    "ttft_s": round(figures.ttft_s, 3),
                    "ttft_p99_s": round(figures.ttft_p99_s, 3),
                    "tpot_ms": round(figures.tpot_ms, 1),
                    "read_s": round(figures.read_s, 3),
                    "in_slo": met,
                }
            )
            if not met:
                break
    claims: list[Claim] = []
    base, wanted = _capacity(rows, "basic"), paper.ONLINE_GAIN.get(model.name)
    if base and wanted:
        gain = _capacity(rows, "dualpath") / base
        about = "agents/s in SLO, dualpath over basic"
        claims.append(Claim(about, gain, wanted, inf, "x", "paper"))
    return Study(
        "online",
        "Arrivals that the SLO allows",
        f"Poisson arrivals for {_ONLINE_S:.0f} s, figures of the second half; SLO: mean TTFT "
        f"{paper.SLO_TTFT_S:.0f} s, TPOT {paper.SLO_TPOT_MS:.0f} ms. The paper "
        "does not say which trace its figure is of.",
        rows,
        claims,
    )


def _within_slo(figures: Figures) -> bool:
    return figures.ttft_s <= paper.SLO_TTFT_S and figures.tpot_ms <= paper.SLO_TPOT_MS


def _capacity(rows: list[dict[str, Any]], system: str) -> float:
    """Return the rate at which TTFT meets its limit, between the two rates around it."""
    own = [row for row in rows if row["system"] == system]
    kept = [row for row in own if row["in_slo"]]
    if not kept:
        return 0.0
    last = kept[-1]
    if len(kept) == len(own):
        return float(last["agents_per_s"])
    over = own[len(kept)]
    share = (paper.SLO_TTFT_S - last["ttft_s"]) / (over["ttft_s"] - last["ttft_s"])
    step = over["agents_per_s"] - last["agents_per_s"]
    return float(last["agents_per_s"] + max(0.0, min(1.0, share)) * step)


def own_run(setup: Setup, tell: Tell) -> Study:
    """Every system in one configuration of the user's own."""
    shape = setup.shape or (1, 2)
    count = setup.agents or 64 * setup.hardware.gpus
    systems = setup.systems or ("basic", "dualpath", "oracle")
    rows = [
        run(setup.scenario(system, "ds-27b", "64k", shape, count), tell).as_json()
        for system in systems
    ]
    return Study("run", "As asked for", "Offline: all agents start at once.", rows, [])
