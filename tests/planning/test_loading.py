"""Break-even lengths, against formulas solved by hand."""

import math

import pytest

from tierd_bench.planning.architecture import Architecture, Layers
from tierd_bench.planning.loading import break_even, lengths, prefix_bytes
from tierd_bench.planning.machine import Link, Machine, Speeds, machine_of
from tierd_bench.planning.models import model_named
from tierd_bench.simulate.prefill import PrefillRate

_MODEL = Architecture("m", (Layers(1, 1, 2048, attention_width=1e3),), linear_params=1e6)
_LAYOUT = _MODEL.layout(4, "bf16", 1)


def _machine(host: Link, disk: Link, tokens_per_s: float = 1000.0) -> Machine:
    return Machine(PrefillRate(tokens_per_s), host, disk)


def _link(tier: str, bytes_per_s: float, latency_s: float = 0.0) -> Link:
    return Link(tier, bytes_per_s, latency_s)


def test_blocks_are_loaded_whole() -> None:
    assert _LAYOUT.block_bytes == 4 * 4096
    assert [prefix_bytes(_LAYOUT, tokens) // 16384 for tokens in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_wait_is_worth_it_from_some_length_on() -> None:
    """1 ms a token computed, half of that loaded, 10 ms of waiting: even at 20 tokens."""
    link = _link("disk", 4096 * 2000, latency_s=0.010)
    found = break_even(_machine(link, link), link, _LAYOUT, 4096)
    assert found.tokens == 20
    assert found.tier == "disk"


def test_a_slow_link_is_never_worth_it_at_a_flat_rate() -> None:
    link = _link("disk", 4096 * 999)
    found = break_even(_machine(link, link), link, _LAYOUT, 4096)
    assert found.tokens is None
    assert found.looked_tokens == 4096


def test_attention_makes_a_slow_link_worth_it_in_the_end() -> None:
    """2e6 n + 2e3 n**2 FLOPs at 1e9 a second against n / 250 s: even at n = 1000."""
    link = _link("disk", 4096 * 250.0)
    speeds = Speeds(tflops=1e-3, utilisation=1.0)
    machine, _ = machine_of(speeds, _MODEL, 1)
    assert machine.prefill.seconds(0, 1000) == pytest.approx(4.0)
    assert break_even(machine, link, _LAYOUT, 4096).tokens == 1000
    assert break_even(machine, link, _LAYOUT, 512).tokens is None


def test_lengths_double_up_to_the_context() -> None:
    link = _link("host", 4096 * 2000)
    slow = _link("disk", 4096 * 500)
    found = lengths(_machine(link, slow), _LAYOUT, 3000)
    assert [one.tokens for one in found] == [256, 512, 1024, 2048, 3000]
    assert all(one.worth_loading == ["host"] for one in found)
    for one in found:
        assert one.compute_s == pytest.approx(one.tokens / 1000)
        assert one.bytes / one.needed_bytes_per_s == pytest.approx(one.compute_s)
    assert [one.tokens for one in lengths(_machine(link, slow), _LAYOUT, 100)] == [100]


def test_what_nobody_gave_is_called_assumed() -> None:
    model = model_named("llama-3-8b")
    _, settings = machine_of(Speeds(), model, 1)
    assert all(one.is_assumed for one in settings)
    machine, settings = machine_of(Speeds(tflops=100, host_bytes_per_s=5e9), model, 4)
    given = {one.name for one in settings if not one.is_assumed}
    assert given == {"peak of a GPU", "host bandwidth"}
    assert machine.host.bytes_per_s == 5e9
    usual, _ = machine_of(Speeds(), model, 4)
    assert usual.host.bytes_per_s == 4 * machine_of(Speeds(), model, 1)[0].host.bytes_per_s
    assert usual.disk == machine.disk
    wanted = model.prefill_flops(512) / (4 * 100e12 * 0.5)
    assert math.isclose(machine.prefill.seconds(0, 512), wanted)
