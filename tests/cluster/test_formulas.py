"""The paper's formulas come out as it prints them, and the range without bottleneck with them."""

import pytest

from tierd_bench.cluster import paper
from tierd_bench.cluster.analysis import bounds, free_range, load_of
from tierd_bench.cluster.models import MODELS, Hardware


@pytest.mark.parametrize("name", list(paper.TABLE_1))
def test_cache_compute_ratio_is_that_of_table_1(name: str) -> None:
    for context, wanted in zip(paper.TABLE_1_CONTEXTS, paper.TABLE_1[name], strict=True):
        ratio = MODELS[name].cache_compute_ratio(paper.TABLE_1_APPEND, context)
        assert ratio == pytest.approx(wanted, rel=0.01)


def test_kv_of_a_token_is_as_published() -> None:
    assert MODELS["ds-660b"].kv_bytes_per_token == 61 * (656 + 132)
    assert MODELS["qwen2.5-32b"].kv_bytes_per_token == 256 * 1024


def test_the_papers_node_is_free_of_bottlenecks_from_a_seventh_to_seven_halves() -> None:
    assert free_range(Hardware()) == pytest.approx((1 / 7, 7 / 2))


def test_each_resource_sets_the_limit_that_the_paper_derives() -> None:
    limits = {bound.resource: bound.least or bound.most for bound in bounds(Hardware())}
    assert limits == {
        "compute NIC of prefill, in": pytest.approx(1 / 7),
        "compute NIC of decode, out": pytest.approx(6.0),
        "compute NIC of decode, in": pytest.approx(7 / 2),
        "DRAM of decode": pytest.approx(7 / 2),
    }


@pytest.mark.parametrize("gpus", [1, 2, 4, 16])
def test_nodes_of_other_sizes_have_the_same_range(gpus: int) -> None:
    assert free_range(Hardware.of_gpus(gpus)) == pytest.approx((1 / 7, 7 / 2))


@pytest.mark.parametrize(("prefill", "decode"), [(1, 7), (7, 2)])
def test_at_the_ends_of_the_range_a_resource_is_just_full(prefill: int, decode: int) -> None:
    assert max(load_of(Hardware(), prefill, decode).values()) == pytest.approx(1.0)


def test_half_a_storage_nic_widens_the_range() -> None:
    least, most = free_range(Hardware(storage_share=0.5))
    assert least < 1 / 7
    assert most > 7 / 2


def test_the_models_own_traffic_narrows_the_range() -> None:
    least, most = free_range(Hardware(collective_share=0.5))
    assert least == pytest.approx(1 / 3)
    assert most == pytest.approx(3 / 2)


def test_attention_time_grows_with_what_is_cached() -> None:
    model = MODELS["ds-660b"]
    assert model.attention_s(10_000, 100) < model.attention_s(20_000, 100)
    assert model.attention_s(10_000, 100) < model.attention_s(10_000, 200)


def test_decode_steps_take_longer_with_more_requests_and_more_kv() -> None:
    model = MODELS["ds-27b"]
    assert model.decode_step_s(1, 1000) < model.decode_step_s(2, 1000)
    assert model.decode_step_s(1, 1000) < model.decode_step_s(1, 2000)
