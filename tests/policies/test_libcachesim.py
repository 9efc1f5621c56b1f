"""The flat behaviour, hit for hit against libCacheSim, where it has the policy."""

from collections.abc import Sequence

import pytest

from tests.policies import oracles
from tests.policies.replaying import Make, flat_hits, scanned, zipf
from tierd_policies.arc import Arc
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.fifo import Fifo
from tierd_policies.gdsf import Gdsf
from tierd_policies.lfu import Lfu
from tierd_policies.s3_fifo import S3Fifo
from tierd_policies.sieve import Sieve
from tierd_policies.w_tinylfu import WTinyLfu

libcachesim = pytest.importorskip("libcachesim")

TRACES = {"zipf": zipf(20_000, 2000, 1), "scan": scanned(20_000, 2000, 2)}
CAPACITIES = (40, 100, 500)


def simulated(name: str, trace: Sequence[int], capacity: int) -> list[bool]:
    cache = getattr(libcachesim, name)(cache_size=capacity)
    request = libcachesim.Request()
    request.obj_size = 1
    hits = []
    for key in trace:
        request.obj_id = key + 1
        hits.append(bool(cache.get(request)))
    return hits


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("trace", TRACES.values(), ids=list(TRACES))
@pytest.mark.parametrize(
    ("make", "name"),
    [(ChainLRU, "LRU"), (Fifo, "FIFO"), (Lfu, "LFU"), (Sieve, "Sieve"), (Arc, "ARC")],
    ids=["lru", "fifo", "lfu", "sieve", "arc"],
)
def test_hit_for_hit(make: Make, name: str, trace: list[int], capacity: int) -> None:
    assert flat_hits(make, trace, capacity) == simulated(name, trace, capacity)


@pytest.mark.parametrize("trace", TRACES.values(), ids=list(TRACES))
def test_s3_fifo_differs_only_in_how_an_empty_cache_fills(trace: list[int]) -> None:
    """libCacheSim lets an empty cache fill its main queue with what the small one cannot hold.

    A policy here does not know how many slots it will get, so it cannot. The oracle can do
    either: as theirs it hits as they do, as ours as we do.
    """
    assert oracles.s3_fifo(trace, 100, main_fills_too=True) == simulated("S3FIFO", trace, 100)
    assert oracles.s3_fifo(trace, 100) == flat_hits(S3Fifo, trace, 100)


@pytest.mark.parametrize(
    ("make", "name", "points"),
    [(lambda: Gdsf(1.0, 0.0), "GDSF", 0.5), (WTinyLfu, "WTinyLFU", 4.0)],
    ids=["gdsf", "w_tinylfu"],
)
@pytest.mark.parametrize("trace", TRACES.values(), ids=list(TRACES))
def test_hits_as_many_where_details_differ(
    make: Make, name: str, points: float, trace: list[int]
) -> None:
    ours = sum(flat_hits(make, trace, 100))
    theirs = sum(simulated(name, trace, 100))
    assert abs(ours - theirs) / len(trace) * 100 < points
