"""A report's page: one HTML file with charts and tables, which needs no network."""

from collections.abc import Iterable
from math import inf
from typing import Final

from tierd_bench.cluster.assumptions import ASSUMPTIONS
from tierd_bench.cluster.charts import make_charts
from tierd_bench.cluster.report import NOTE, Report
from tierd_bench.cluster.studies import Study
from tierd_bench.cluster.systems import SYSTEMS
from tierd_bench.cluster.table import CLAIM_HEADS, cell, claim_cells, words
from tierd_bench.pages import Page, Table, Tile, render


def render_page(report: Report) -> str:
    """Return the page of a report."""
    page = Page(
        heading="Simulated: a cluster with dual-path loading",
        subtitle=_subtitle(report),
        tiles=_tiles(report),
        notes=_notes(),
        charts=make_charts(list(report.studies)),
        tables=_tables(report),
        footer=f"Made by tierd {report.version}. Simulated, not measured.",
    )
    return render(page)


def _notes() -> Iterable[str]:
    yield NOTE
    yield "Systems: " + "; ".join(f"{one.name}: {one.about}" for one in SYSTEMS.values()) + "."


def _subtitle(report: Report) -> str:
    chosen = (f"{name.replace('_', ' ')} {value}" for name, value in report.config.items() if value)
    return " · ".join((*chosen, f"simulated in {report.wall_s:.0f} s"))


def _tiles(report: Report) -> Iterable[Tile]:
    claims = [claim for study in report.studies for claim in study.claims if claim.tolerance < inf]
    held = sum(claim.holds for claim in claims)
    if claims:
        yield Tile("Claims that hold", f"{held} of {len(claims)}", "within their tolerance")
    for study in report.studies:
        for claim in study.claims:
            if claim.about in _TILES:
                wanted = f"{claim.source}: {claim.wanted:.4g} {claim.unit}"
                yield Tile(_TILES[claim.about], f"{claim.simulated:.3g} {claim.unit}", wanted)


_TILES: Final = {
    "gain of DualPath at 1P1D": "DualPath over Basic, 1P1D",
    "JCT, dualpath against basic": "JCT, all of DualPath",
    "storage NIC max/mean, two-paths": "NIC balance, round robin",
    "storage NIC max/mean, dualpath": "NIC balance, scheduler",
}


def _tables(report: Report) -> Iterable[Table]:
    for study in report.studies:
        if study.claims:
            rows = [claim_cells(claim) for claim in study.claims]
            yield Table(f"{study.title}: held against", rows, CLAIM_HEADS)
        yield _study(study)
    rows = [(one.name, f"{one.value:.4g} {one.unit}", one.why) for one in ASSUMPTIONS]
    yield Table("What the paper does not give", rows, ("constant", "value", "where from"))


def _study(study: Study) -> Table:
    heads = [words(name) for name in study.rows[0]]
    rows = [tuple(map(cell, row.values())) for row in study.rows]
    return Table(f"{study.title} (simulated)", rows, heads, study.about)
