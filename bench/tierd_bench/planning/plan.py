"""A plan: from a model, a machine and perhaps a trace to all the figures of a report."""

from collections.abc import Callable
from dataclasses import dataclass

from tierd.core.layouts import LayoutSpec
from tierd_bench.planning.architecture import Architecture
from tierd_bench.planning.config import check_ranks
from tierd_bench.planning.demand import LRU
from tierd_bench.planning.endurance import DAY_S, Endurance
from tierd_bench.planning.loading import CONTEXT_TOKENS, break_even, lengths
from tierd_bench.planning.machine import Machine, Setting, Speeds, machine_of
from tierd_bench.planning.report import Fit, Kv, Report, Workload
from tierd_bench.planning.workload import Demand, Tiers, work_out

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    `settings` is where the caller says which of its figures nobody gave. `hit_rates` is for
    which smallest tiers are wanted, `requests_per_day` takes the place of a trace's own pace.
    """

    architecture: Architecture
    dtype: str
    tensor_parallel: int
    block_tokens: int
    host_bytes: int
    disk_bytes: int
    speeds: Speeds
    endurance: Endurance
    policy: str = LRU
    hit_rates: tuple[float, ...] = ()
    requests_per_day: float | None = None
    settings: tuple[Setting, ...] = ()


def make_plan(version: str, wish: Wish, demand: Demand | None, tell: Tell) -> Report:
    """Return the figures of a plan; `tell` hears how many references of how many are done.

    Raises:
        PlanError: what is asked for cannot be had; says what to change.
        InvalidRequest: no layout can be so.
    """
    model, ranks = wish.architecture, wish.tensor_parallel
    check_ranks(model, ranks)
    layout = model.layout(wish.block_tokens, wish.dtype, ranks)
    machine, speeds = machine_of(wish.speeds, model, ranks)
    host, disk = _fit("host", wish.host_bytes, layout), _fit("disk", wish.disk_bytes, layout)
    settings, notes = [*wish.settings, *speeds], _notes(wish, layout)
    if not model.context_tokens:
        origin = "the model does not say"
        settings.append(Setting("longest context", f"{CONTEXT_TOKENS:,} tokens", origin))
    workload = None
    if demand is not None:
        tiers = Tiers(host, disk, wish.policy, wish.hit_rates, wish.endurance)
        demand = demand.at_pace(wish.requests_per_day)
        workload = work_out(demand, tiers, machine, layout, tell)
        settings += _workload_settings(wish, demand)
        notes += [*_prompt_notes(wish, demand), *_busy_notes(workload, machine)]
    return Report(
        version=version,
        kv=_kv(wish, layout),
        settings=tuple(settings),
        lengths=tuple(lengths(machine, layout, model.context_tokens)),
        break_evens=tuple(
            break_even(machine, link, layout, model.context_tokens)
            for link in (machine.host, machine.disk)
        ),
        tiers=(host, disk),
        workload=workload,
        notes=tuple(notes),
    )


def _fit(tier: str, size: int, layout: LayoutSpec) -> Fit:
    blocks = size // layout.block_bytes
    return Fit(tier, size, blocks, blocks * layout.block_tokens)


def _kv(wish: Wish, layout: LayoutSpec) -> Kv:
    model, ranks = wish.architecture, wish.tensor_parallel
    return Kv(
        model=model.name,
        dtype=wish.dtype,
        tensor_parallel=ranks,
        token_bytes=model.token_bytes(wish.dtype, ranks),
        rank_token_bytes=model.rank_token_bytes(wish.dtype, ranks),
        windowed_bytes=model.windowed_bytes(wish.dtype, ranks),
        state_bytes=model.state_bytes,
        replicas=max(1, ranks // model.kv_heads) if model.kv_heads else 1,
        block_tokens=layout.block_tokens,
        block_bytes=layout.block_bytes,
    )


def _notes(wish: Wish, layout: LayoutSpec) -> list[str]:
    kv = _kv(wish, layout)
    notes = list(wish.architecture.notes)
    if kv.replicas > 1:
        notes.append(
            f"each KV head is on {kv.replicas} ranks, and a block has a part for each rank: an "
            f"engine that keeps it once needs 1/{kv.replicas} of the space and of the bandwidth"
        )
    padding = layout.block_bytes - kv.token_bytes * kv.block_tokens - kv.state_bytes
    for what, size in (
        ("padding to whole pages is", padding),
        ("the states of recurrent layers are", kv.state_bytes),
    ):
        share = size / layout.block_bytes
        if share > 0.1:
            notes.append(f"{what} {100 * share:.0f} % of a block: use more --block-tokens")
    return notes


def _prompt_notes(wish: Wish, demand: Demand) -> list[str]:
    context = wish.architecture.context_tokens
    longer = int((demand.references.prompt_tokens > context).sum()) if context else 0
    if not longer:
        return []
    return [
        f"{longer:,} of {demand.facts.requests:,} prompts are longer than the model's context of "
        f"{context:,} tokens: it could not serve them"
    ]


def _busy_notes(workload: Workload, machine: Machine) -> list[str]:
    notes = []
    busy = workload.ttft[-1].engines_busy
    if busy is not None and busy > 1:
        notes.append(
            f"prefill keeps {busy:.3g} engines busy even with these tiers: with fewer, requests "
            "wait for one another, longer than shown"
        )
    life = workload.lifetime
    rate = (life.bytes_written + life.bytes_read) / life.seconds if life else 0.0
    if rate > machine.disk.bytes_per_s:
        notes.append(
            f"the disk is asked for {rate / 1e9:.3g} GB/s on average, more than it has: what it "
            "cannot take is not kept, and hits are fewer than shown"
        )
    return notes


def _workload_settings(wish: Wish, demand: Demand) -> list[Setting]:
    order = "given" if demand.is_timed else "the trace does not say when sessions began"
    settings = [
        _pace(wish, demand),
        Setting("order of requests", demand.facts.order, order),
        Setting("sizes for a hit rate", f"under {LRU}", "the policy known at all sizes at once"),
        Setting(
            "tiers together",
            "the larger of the two",
            "the disk has what host has, if write-back keeps up",
        ),
        Setting("users at once", "those of the trace", "more of them need larger tiers"),
        Setting("cache at the start", "empty", "so first uses miss"),
        Setting("cache of the engine", "none", "all hits are tierd's"),
        Setting("requests under way", "one at a time", "waiting for one another is left out"),
    ]
    return settings + (wish.endurance.settings() if wish.disk_bytes else [])


def _pace(wish: Wish, demand: Demand) -> Setting:
    name = "requests a day"
    if wish.requests_per_day is not None:
        return Setting(name, f"{wish.requests_per_day:,.0f}")
    if demand.seconds <= 0:
        return Setting(name, "unknown", "all come at once: give --requests-per-day")
    pace = "as recorded" if demand.is_timed else "modelled, not recorded: give --requests-per-day"
    return Setting(name, f"{demand.facts.requests * DAY_S / demand.seconds:,.0f}", pace)
