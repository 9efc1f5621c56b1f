"""What a prefill step takes (rule E), and what it moves over which resource (section 1.4)."""

from collections import deque

import pytest

from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.models import MODELS, Hardware
from tierd_bench.cluster.parts import Request, make_engines, make_nodes
from tierd_bench.cluster.prefill import (
    QUOTA_S,
    Piece,
    pack_by_quota,
    pack_by_tokens,
    stream_layers,
)
from tierd_bench.cluster.reading import balanced_share, chunked
from tierd_bench.cluster.resources import Shared
from tierd_bench.cluster.workload import Turn

MODEL = MODELS["ds-660b"]


def request(context: int, append: int) -> Request:
    made = Request(0, Turn(context, append, 5), hit=context, submitted=0.0)
    made.left = append
    return made


def test_a_step_takes_what_fits_in_the_quota_in_order() -> None:
    ready = deque(request(30_000, 300) for _ in range(20))
    taken = pack_by_quota(ready, MODEL)
    spent = sum(MODEL.attention_s(piece.cached, piece.new) for piece in taken)
    assert [piece.request for piece in taken] == list(ready)[: len(taken)]
    assert 1 < len(taken) < 20
    assert spent <= QUOTA_S


def test_the_last_chunk_is_the_largest_that_fits() -> None:
    taken = pack_by_quota(deque(request(30_000, 700) for _ in range(20)), MODEL)
    last = taken[-1]
    assert 0 < last.new < 700
    before = sum(MODEL.attention_s(piece.cached, piece.new) for piece in taken[:-1])
    assert before + MODEL.attention_s(last.cached, last.new) <= QUOTA_S
    assert before + MODEL.attention_s(last.cached, last.new + 1) > QUOTA_S


def test_a_request_beyond_any_quota_still_goes_on() -> None:
    taken = pack_by_quota(deque([request(10**12, 100)]), MODEL)
    assert [piece.new for piece in taken] == [1]


def test_without_quota_a_step_takes_so_many_tokens() -> None:
    taken = pack_by_tokens(deque(request(100, 600) for _ in range(5)), MODEL)
    assert [piece.new for piece in taken] == [600, 424]


def test_layers_load_the_resources_as_the_papers_analysis_has_it() -> None:
    """Each hit token: DRAM of decode moves 1 twice or once, compute NICs what their column says."""
    loop = Loop()
    hardware = Hardware.of_gpus(1)
    prefill, decode = make_engines(loop, hardware, make_nodes(loop, hardware, 2, 0))
    for read_here, read_there in ((100, 0), (0, 100)):
        one = request(100, 0)
        one.prefill, one.decode = prefill, decode
        one.hit_prefill, one.hit_decode = read_here, read_there
        demands: dict[Shared, float] = {}
        stream_layers(Piece(one, 100, 0), demands, 1.0)
        wanted = {
            prefill.nic_out: 2 * read_here,
            prefill.nic_in: 100,
            prefill.node.dram: read_here,
            decode.nic_out: read_there,
            decode.nic_in: read_here,
            decode.node.dram: 100,
        }
        assert demands == {key: size for key, size in wanted.items() if size}


@pytest.mark.parametrize(
    ("tokens", "here", "there", "share"),
    [(100, 0, 0, 50), (100, 40, 0, 30), (100, 0, 500, 100), (100, 500, 0, 0)],
)
def test_a_balanced_split_lets_both_sides_end_together(
    tokens: int, here: int, there: int, share: int
) -> None:
    assert balanced_share(tokens, here, there) == share


def test_chunks_are_even_and_whole() -> None:
    assert list(chunked(10, 4)) == [2, 3, 2, 3]
    assert sum(chunked(1001, 8)) == 1001
    assert list(chunked(2, 8)) == [1, 1]
