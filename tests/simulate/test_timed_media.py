"""Media on a virtual clock: rate, latency, depth, turns, and who goes first."""

from tierd.control.events import MoveClass
from tierd.core.units import NS_PER_S, MiB
from tierd_bench.simulate.media import Lanes, Medium, MediumSpec, Piece
from tierd_bench.simulate.timed_clock import Clock

PLAIN = MediumSpec(read_bytes_per_s=100 * MiB, write_bytes_per_s=50 * MiB, latency_s=0.001)


def run_out(clock: Clock) -> None:
    while clock.step():
        pass


class Ends:
    """When each of several operations ended, in milliseconds, by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ms: dict[str, float] = {}

    def note(self, name: str) -> None:
        self.ms[name] = self._clock.now_ns * 1000 / NS_PER_S


def test_an_operation_takes_its_bytes_and_a_latency() -> None:
    clock = Clock()
    ends = Ends(clock)
    medium = Medium(clock, PLAIN)
    medium.begin("read", 10 * MiB, lambda _: ends.note("read"))
    medium.begin("write", 10 * MiB, lambda _: ends.note("write"))
    run_out(clock)
    assert ends.ms == {"read": 101.0, "write": 301.0}


def test_latencies_overlap_up_to_the_depth() -> None:
    def ends_of(depth: int) -> int:
        clock = Clock()
        medium = Medium(clock, MediumSpec(1e12, 1e12, latency_s=0.001, depth=depth))
        for _ in range(8):
            medium.begin("read", 0, lambda _: None)
        run_out(clock)
        return clock.now_ns

    assert ends_of(8) == NS_PER_S // 1000
    assert ends_of(2) == 4 * NS_PER_S // 1000


def test_a_small_copy_does_not_wait_for_all_of_a_large_one() -> None:
    clock = Clock()
    ends = Ends(clock)
    medium = Medium(clock, PLAIN)
    medium.turns("read", 320 * MiB)(lambda _: ends.note("large"))
    medium.turns("read", 16 * MiB)(lambda _: ends.note("small"))
    run_out(clock)
    assert ends.ms["small"] < 400 < ends.ms["large"]


def test_demand_goes_first_and_the_rest_keeps_an_eighth() -> None:
    clock = Clock()
    order: list[MoveClass] = []
    lanes = Lanes(clock, Medium(clock, PLAIN))

    def piece(urgency: MoveClass) -> Piece:
        return Piece(urgency, "read", 8 * MiB, lambda _: order.append(urgency))

    for _ in range(20):
        lanes.enter(piece("write_back"))
    for _ in range(40):
        lanes.enter(piece("demand"))
    run_out(clock)
    assert len(order) == 60
    # What was handed over before the first demand came is in its way: 32 MiB, and no more.
    assert order.index("demand") == 4
    last = max(at for at, urgency in enumerate(order) if urgency == "demand")
    passed = order[4:last].count("write_back")
    assert 40 // 8 <= passed <= 40 // 7 + 1


def test_what_is_urged_overtakes_what_nobody_waits_for() -> None:
    clock = Clock()
    order: list[int] = []
    lanes = Lanes(clock, Medium(clock, PLAIN))

    def prefetch(number: int) -> Piece:
        return Piece("prefetch", "read", 8 * MiB, lambda _: order.append(number), (number,))

    for number in range(8):
        lanes.enter(prefetch(number))
    lanes.urge(frozenset({7}))
    run_out(clock)
    assert order == [0, 1, 2, 3, 7, 4, 5, 6]
