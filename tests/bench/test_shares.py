"""Simulations of one trace become one row, with differences to chain LRU."""

from typing import Any

from tierd_bench.shares import shares


def report(name: str, policy: str, *hit_rates: float) -> dict[str, Any]:
    trace = {"name": name, "block_tokens": 64, "block_references": 9, "unique_blocks": 3}
    runs = [
        {"policy": policy, "capacity_share": at / 4, "hit_rate": rate, "optimum_share": rate / 0.8}
        for at, rate in enumerate(hit_rates, start=1)
    ]
    return {"trace": trace | {"sample_ratio": 1.0}, "runs": runs}


def test_reports_of_one_trace_are_put_together() -> None:
    [one, other] = shares(
        [
            report("one", "chain_lru", 0.2, 0.4),
            report("other", "chain_lru", 0.8),
            report("one", "arc", 0.1, 0.404),
        ]
    )
    assert list(one["policies"]) == ["chain_lru", "arc"]
    assert one["capacity_shares"] == [0.25, 0.5]
    assert one["policies"]["arc"]["over_chain_lru_points"] == [-10.0, 0.4]
    assert one["policies"]["chain_lru"]["optimum_share"] == [0.25, 0.5]
    assert other["policies"]["chain_lru"]["over_chain_lru_points"] == [0.0]
