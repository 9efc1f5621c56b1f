"""Draws a status for people; with an earlier one, also what happens a second.

Fits 80 columns. Asking for the status, and how often, is left to the commands.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from tierd.core.units import NS_PER_S, format_bytes
from tierd.service.status import hit_rate
from tierd_proto.v1 import tierd_pb2 as pb

_BAR_WIDTH = 8
_NOTHING = "-"


def status_view(reply: pb.StatusReply, before: pb.StatusReply | None = None) -> RenderableType:
    """Return all of `reply` as tables; with rates since `before`, if that is of the same run."""
    elapsed_ns = reply.uptime_ns - before.uptime_ns if before is not None else 0
    if before is None or before.boot != reply.boot or elapsed_ns <= 0:
        before, elapsed_ns = reply, 0
    since = _Since(before, elapsed_ns / NS_PER_S)
    tables = (_tokens(reply, since), _tiers(reply, since), _routes(reply, since))
    shown = [table for table in (*tables, _namespaces(reply)) if table.row_count]
    # Faults first: a small terminal cuts off the end.
    return Group(_heading(reply), *_bad(reply), *(part for table in shown for part in ("", table)))


@dataclass(frozen=True, slots=True)
class _Since:
    """An earlier status, and how long ago that was; 0 if there is none to compare with."""

    reply: pb.StatusReply
    seconds: float


def _heading(reply: pb.StatusReply) -> Text:
    rate = hit_rate(reply)
    return Text(
        f"tierd {reply.version}, process {reply.pid}, up {_duration(reply.uptime_ns)}\n"
        f"on {', '.join(reply.listens) or 'no address'}\n"
        f"hit rate {_NOTHING if rate is None else _percent(rate)}, "
        f"{reply.sessions} sessions, {_count(reply.leases)} leases on "
        f"{_count(reply.leased_blocks)} blocks, {reply.waiting} requests waiting"
    )


def _tokens(reply: pb.StatusReply, since: _Since) -> Table:
    now = _outcomes(reply)
    table = _table(["Tokens"], ["since the start", "share"])
    recent = now
    if since.seconds:
        table = _table(["Tokens"], ["since the start", "share", "a second, now", "share now"])
        earlier = _outcomes(since.reply)
        recent = {outcome: tokens - earlier[outcome] for outcome, tokens in now.items()}
    for outcome, tokens in now.items():
        cells = [_count(tokens), _share(tokens, now["asked"])]
        if since.seconds:
            rate = recent[outcome] / since.seconds
            cells += [_count(rate), _share(recent[outcome], recent["asked"])]
        table.add_row(outcome, *cells)
    return table


def _outcomes(reply: pb.StatusReply) -> dict[str, int]:
    """Return the tokens of all namespaces together, by what came of them."""
    spaces = reply.namespaces
    hits = {
        tier.name: sum(space.tokens_hit[index] for space in spaces)
        for index, tier in enumerate(reply.tiers)
    }
    asked = sum(space.tokens_asked for space in spaces)
    missed = sum(space.tokens_missed for space in spaces)
    return {**hits, "hit": asked - missed, "missed": missed, "asked": asked}


def _tiers(reply: pb.StatusReply, since: _Since) -> Table:
    flow = ["evicted/s", "written/s"] if since.seconds else ["evicted", "written"]
    table = _table(["Tiers", "medium"], ["", "used", "", "of", "blocks", "queue", *flow])
    for tier, earlier in zip(reply.tiers, since.reply.tiers, strict=True):
        used = tier.bytes_used / tier.bytes_max if tier.bytes_max else 0.0
        evicted: float = tier.evictions
        written: float = tier.bytes_written
        if since.seconds:
            evicted = (tier.evictions - earlier.evictions) / since.seconds
            written = (tier.bytes_written - earlier.bytes_written) / since.seconds
        table.add_row(
            Text(tier.name, "" if tier.state == "online" else "bold red"),
            _short(tier.medium),
            ProgressBar(total=1.0, completed=used, width=_BAR_WIDTH),
            _percent(used),
            format_bytes(tier.bytes_used),
            format_bytes(tier.bytes_max),
            _count(tier.blocks),
            _count(tier.write_queue),
            _count(evicted),
            format_bytes(int(written)),
        )
    return table


def _routes(reply: pb.StatusReply, since: _Since) -> Table:
    now = ["now"] if since.seconds else []
    table = _table(["Routes"], ["blocks", "failed", "bytes", "while busy", *now])
    earlier = {(route.source, route.target): route.bytes for route in since.reply.routes}
    for route in reply.routes:
        cells = [_count(route.blocks), _count(route.failed), format_bytes(route.bytes)]
        cells.append(_rate(route.bytes, route.busy_ns / NS_PER_S))
        if since.seconds:
            moved = route.bytes - earlier.get((route.source, route.target), 0)
            cells.append(_rate(moved, since.seconds))
        table.add_row(f"{route.source} to {route.target}", *cells)
    return table


def _namespaces(reply: pb.StatusReply) -> Table:
    table = _table(
        ["Namespaces", "model"], ["block", "blocks", "requests", "hits", "declined", "corrupt"]
    )
    for space in reply.namespaces:
        table.add_row(
            _short(space.name),
            _short(space.model),
            format_bytes(space.block_bytes),
            _count(space.blocks),
            _count(space.requests),
            _share(space.tokens_asked - space.tokens_missed, space.tokens_asked),
            _count(space.blocks_declined),
            Text(_count(space.corrupt_blocks), "bold red" if space.corrupt_blocks else ""),
        )
    return table


def _bad(reply: pb.StatusReply) -> Iterator[Text]:
    for tier in reply.tiers:
        if tier.state != "online":
            cause = tier.cause or "no cause given"
            yield Text(f"{tier.name} is {tier.state}: {cause}", "bold red")
        if tier.blocks_given_up:
            lost = f"{_count(tier.blocks_given_up)} blocks were not written to {tier.name}"
            yield Text(f"{lost}: that failed too often", "bold red")
        if tier.write_bytes_per_day:
            yield _endurance(tier)


def _endurance(tier: pb.TierStatus) -> Text:
    budget = format_bytes(tier.write_bytes_per_day)
    left = tier.write_budget_bytes
    now = f"{format_bytes(left)} left now" if left >= 0 else f"{format_bytes(-left)} owed"
    declined = _count(tier.blocks_unbudgeted)
    return Text(f"{tier.name} may be written {budget} a day, {now}; {declined} blocks were not")


def _table(texts: Iterable[str], numbers: Iterable[str]) -> Table:
    """Return a table whose texts give way where it is too wide, and whose numbers do not."""
    first, *others = texts
    return Table(
        Column(Text(first, "bold")),
        *(Column(name) for name in others),
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        box=None,
        collapse_padding=True,
        header_style="dim",
        pad_edge=False,
    )


def _short(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _share(part: int, whole: int) -> str:
    return _percent(part / whole) if whole > 0 else _NOTHING


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _rate(size: int, seconds: float) -> str:
    return f"{format_bytes(int(size / seconds))}/s" if seconds else _NOTHING


def _count(value: float) -> str:
    for step, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= step:
            return f"{value / step:.4g} {unit}"
    return f"{value:,.0f}"


def _duration(ns: int) -> str:
    minutes, seconds = divmod(ns // NS_PER_S, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
