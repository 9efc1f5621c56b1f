"""Two routes on a virtual clock: what they bring, how soon, and what is learnt of it."""

import heapq
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.core.units import MiB
from tierd_client.placement import PlacedRun
from tierd_client.splitting import DIRECT_READS_MAX, Arm, Split, Splitter, TwoEnded, Way

BLOCK = 2 * MiB
MB_PER_S = 1e6


@dataclass
class World:
    """Two routes with rates of their own, or with one that they share."""

    staged: float
    direct: float
    shared: float | None = None

    def run(self, blocks: int, split: Split, failing: Way | None = None) -> "Outcome":
        """Bring `blocks` over; return how long it took, and what each route brought."""
        ends = TwoEnded([PlacedRun(0, blocks, 1, 0, pending=False)], BLOCK, split)
        ends_ns: list[tuple[float, Way, int]] = []
        free_s = {"staged": 0.0, "direct": 0.0}
        arrived: list[int] = []
        now = 0.0
        while True:
            reading = sum(way == "direct" for _, way, _ in ends_ns)
            while reading < DIRECT_READS_MAX and (piece := ends.take_back(2)) is not None:
                arrived += range(piece.first, piece.first + piece.count)
                self._start(ends_ns, free_s, "direct", piece.count, now)
                reading += 1
            for run in ends.take_front():
                arrived += range(run.first, run.first + run.count)
                for _ in range(run.count):
                    self._start(ends_ns, free_s, "staged", 1, now)
            if not ends_ns:
                break
            now, way, count = heapq.heappop(ends_ns)
            brought = 0 if way == failing else count
            ends.ended(way, count, brought, now)
            if way == failing:
                del arrived[-count:]
        assert ends.is_empty
        return Outcome(now, ends.moved, arrived)

    def _start(
        self,
        ends_ns: list[tuple[float, Way, int]],
        free_s: dict[str, float],
        way: Way,
        count: int,
        now: float,
    ) -> None:
        size = count * BLOCK
        lane = "disk" if self.shared else way
        rate = self.shared or getattr(self, way)
        free_s[lane] = max(free_s.get(lane, 0.0), now) + size / rate
        heapq.heappush(ends_ns, (free_s[lane], way, count))


@dataclass
class Outcome:
    seconds: float
    moved: dict[Way, int]
    arrived: list[int]

    @property
    def rate(self) -> float:
        return sum(self.moved.values()) / self.seconds


def both(staged: float = 1e9, direct: float = 1e9) -> Split:
    return Split("both", {"staged": staged, "direct": direct}, "")


@pytest.mark.parametrize(("staged", "direct"), [(300, 300), (300, 100), (100, 300), (2000, 500)])
def test_two_separate_routes_bring_their_sum_whatever_was_expected(
    staged: float, direct: float
) -> None:
    world = World(staged * MB_PER_S, direct * MB_PER_S)
    for expected in (both(), both(staged * MB_PER_S, direct * MB_PER_S)):
        outcome = world.run(256, expected)
        assert outcome.rate >= 0.95 * (staged + direct) * MB_PER_S


def test_a_route_that_crawls_is_left_alone() -> None:
    """A last piece given to a slow route is what everybody then waits for."""
    outcome = World(2000 * MB_PER_S, 5 * MB_PER_S).run(256, both(2e9, 5e6))
    assert outcome.rate >= 0.95 * 2000 * MB_PER_S
    assert outcome.moved["direct"] <= BLOCK


@given(
    blocks=st.integers(1, 200),
    staged=st.floats(1e6, 1e10),
    direct=st.floats(1e6, 1e10),
    expected=st.tuples(st.floats(1e6, 1e10), st.floats(1e6, 1e10)),
)
def test_every_block_comes_once(
    blocks: int, staged: float, direct: float, expected: tuple[float, float]
) -> None:
    outcome = World(staged, direct).run(blocks, both(*expected))
    assert sorted(outcome.arrived) == list(range(blocks))
    assert sum(outcome.moved.values()) == blocks * BLOCK


def taught(world: World, fetches: int, blocks: int = 128) -> tuple[Splitter, list[Arm]]:
    """Fetch that often, and return what was learnt and the ways taken."""
    splitter = Splitter()
    ways: list[Arm] = []
    for _ in range(fetches):
        split = splitter.choose("auto", blocks * BLOCK, 0.0)
        outcome = world.run(blocks, split)
        splitter.learn(split.arm, outcome.seconds, outcome.moved)
        ways.append(split.arm)
    return splitter, ways


def test_routes_that_are_separate_are_used_together() -> None:
    _, ways = taught(World(300 * MB_PER_S, 100 * MB_PER_S), 400)
    assert ways[:3] == ["both", "staged", "both"]
    assert ways.count("both") >= 390


def test_a_shared_bottleneck_is_noticed_and_the_staged_route_kept() -> None:
    splitter, ways = taught(World(0, 0, shared=2e9), 400)
    assert ways[:3] == ["both", "staged", "staged"]
    assert ways.count("staged") >= 390
    assert "share one bottleneck" in splitter.choose("auto", 128 * BLOCK, 0.0).why


def test_routes_that_change_are_noticed() -> None:
    splitter, _ = taught(World(0, 0, shared=2e9), 20)
    world = World(2e9, 2e9)
    ways: list[Arm] = []
    for _ in range(600):
        split = splitter.choose("auto", 128 * BLOCK, 0.0)
        outcome = world.run(128, split)
        splitter.learn(split.arm, outcome.seconds, outcome.moved)
        ways.append(split.arm)
    assert ways[-1] == "both"


def test_a_slow_staged_route_is_not_tried_alone() -> None:
    _, ways = taught(World(50 * MB_PER_S, 1000 * MB_PER_S), 100)
    assert set(ways) == {"both"}


def test_a_route_that_fails_is_left_out_longer_each_time_and_proves_itself_again() -> None:
    splitter, _ = taught(World(1e9, 1e9), 5)
    splitter.demote("direct", "EIO", 100.0)
    assert splitter.choose("auto", 128 * BLOCK, 100.9).arm == "staged"
    assert "EIO" in splitter.choose("auto", 128 * BLOCK, 100.9).why
    assert splitter.choose("auto", 128 * BLOCK, 101.1).arm == "both"
    splitter.demote("direct", "EIO", 101.1)
    assert splitter.choose("auto", 128 * BLOCK, 103.0).arm == "staged"
    assert splitter.choose("auto", 128 * BLOCK, 103.2).arm == "both"
    splitter.learn("both", 0.1, {"staged": 64 * MiB, "direct": 64 * MiB})
    splitter.demote("direct", "EIO", 200.0)
    assert splitter.choose("auto", 128 * BLOCK, 201.1).arm == "both"


def test_what_is_asked_for_is_done_and_little_is_not_split() -> None:
    splitter = Splitter()
    assert splitter.choose("direct", 128 * BLOCK, 0.0).arm == "direct"
    assert splitter.choose("staged", 128 * BLOCK, 0.0).stage_blocks(BLOCK) >= 1 << 31
    assert splitter.choose("auto", BLOCK, 0.0).arm == "staged"
    assert splitter.choose("direct", 128 * BLOCK, 0.0).stage_blocks(BLOCK) == 0


def test_a_disk_slower_than_computing_is_spared_and_looked_at_again() -> None:
    splitter = Splitter()
    assert splitter.choose("auto", 128 * BLOCK, 0.0, worth_rate=1e9).arm == "both"
    splitter.learn("both", 1.0, {"staged": BLOCK, "direct": BLOCK})
    chosen = [splitter.choose("auto", 128 * BLOCK, 0.0, worth_rate=1e9) for _ in range(40)]
    assert [split.arm for split in chosen].count("none") == 39
    assert "slower than computing" in chosen[0].why
    assert splitter.choose("auto", 128 * BLOCK, 0.0, worth_rate=1e6).arm == "both"


def test_one_route_alone_goes_from_the_front() -> None:
    """Read from the back, a fetch that was cut by its deadline had brought nothing of use."""
    ends = TwoEnded([PlacedRun(0, 8, 1, 0, pending=False)], BLOCK, both())
    assert ends.take_back(1) == PlacedRun(7, 1, 1, 7, pending=False)
    ends.leave_to("direct")
    assert ends.take_back(1) == PlacedRun(0, 1, 1, 0, pending=False)
    ends.give_back(PlacedRun(0, 1, 1, 0, pending=False))
    assert ends.take_back(8) == PlacedRun(0, 1, 1, 0, pending=False)
    assert ends.take_back(2) == PlacedRun(1, 2, 1, 1, pending=False)


def test_no_block_behind_a_lost_one_is_dealt_out() -> None:
    ends = TwoEnded([PlacedRun(0, 8, 1, 0, pending=False)], BLOCK, both())
    ends.drop_from(3)
    ends.leave_to("direct")
    dealt: list[int] = []
    while (piece := ends.take_back(8)) is not None:
        dealt += range(piece.first, piece.first + piece.count)
    assert sorted(dealt) == [0, 1, 2]
