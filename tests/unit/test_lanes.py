"""Who goes first on a medium. Sizes are small whole numbers, and time stands still."""

from collections import Counter

from tierd.control.events import MoveClass
from tierd.core.units import NS_PER_MS, MiB
from tierd.transfer.lanes import IN_FLIGHT_BYTES_MAX, Lanes, Ticket

LONG_NS = 10**12


class Medium:
    """Lanes of 8 bytes in flight, a clock, and what was granted, in order."""

    def __init__(self) -> None:
        self.now_ns = LONG_NS
        self.lanes = Lanes(lambda: self.now_ns, bytes_max=8)
        self.tickets: list[Ticket] = []
        self._running: list[Ticket] = []

    def enter(self, urgency: MoveClass, size: int = 1, count: int = 1) -> list[Ticket]:
        entered = [self.lanes.enter(urgency, size) for _ in range(count)]
        self.tickets += entered
        return entered

    def under_way(self) -> Counter[str]:
        return Counter(t.urgency for t in self.tickets if t.granted.done())

    def end_one(self) -> str:
        """End what was granted first, and say of which class it was."""
        granted = [t for t in self.tickets if t.granted.done()]
        self._running += [t for t in granted if t not in self._running]
        ticket = self._running.pop(0)
        self.tickets.remove(ticket)
        self.lanes.leave(ticket)
        return ticket.urgency


async def test_no_more_is_under_way_than_the_limit() -> None:
    medium = Medium()
    medium.enter("demand", 3, count=4)
    assert medium.under_way() == {"demand": 2}
    medium.end_one()
    assert medium.under_way() == {"demand": 2}


async def test_what_is_larger_than_the_limit_goes_alone() -> None:
    medium = Medium()
    medium.enter("demand")
    medium.enter("demand", 100)
    assert medium.under_way() == {"demand": 1}
    medium.end_one()
    assert medium.under_way() == {"demand": 1}
    assert medium.end_one() == "demand"
    assert not medium.tickets


async def test_demand_overtakes_what_waits() -> None:
    medium = Medium()
    medium.enter("write_back", 8, count=2)
    medium.enter("demand", 8)
    medium.end_one()
    assert medium.under_way() == {"demand": 1}


async def test_classes_go_in_order() -> None:
    medium = Medium()
    medium.enter("demand", 8)
    for urgency in ("write_back", "promotion", "prefetch"):
        medium.enter(urgency, 8)
    medium.enter("demand", 8)
    order = [medium.end_one() for _ in range(5)]
    assert order == ["demand", "demand", "prefetch", "promotion", "write_back"]


async def test_a_lower_class_gets_its_share_while_demand_never_ends() -> None:
    medium = Medium()
    medium.enter("demand", count=400)
    medium.enter("write_back", count=100)
    ended = Counter(medium.end_one() for _ in range(240))
    assert 25 <= ended["write_back"] <= 30


async def test_every_class_gets_something() -> None:
    medium = Medium()
    medium.enter("demand", count=2000)
    for urgency in ("prefetch", "promotion", "write_back"):
        medium.enter(urgency, count=200)
    ended = Counter(medium.end_one() for _ in range(1600))
    assert ended["demand"] > ended["prefetch"] > ended["promotion"] > ended["write_back"] > 0


async def test_who_waited_long_does_not_come_all_at_once() -> None:
    medium = Medium()
    medium.enter("write_back", 2, count=10)
    medium.enter("demand", count=1000)
    shown = "".join(medium.end_one()[0] for _ in range(300)).replace("w" * 4, "W", 1)
    assert "ww" not in shown


async def test_between_demands_the_way_is_kept_clear() -> None:
    medium = Medium()
    medium.enter("demand")
    medium.enter("write_back", count=8)
    medium.end_one()
    assert medium.under_way() == {"write_back": 1}
    medium.now_ns += LONG_NS
    medium.end_one()
    assert medium.under_way() == {"write_back": 7}


async def test_without_demand_the_lower_classes_come_to_have_the_medium_for_themselves() -> None:
    """With the 8 MiB left to them beside demand, write-back alone left the disk idle at times."""
    medium = Medium()
    medium.lanes = Lanes(lambda: medium.now_ns)
    medium.enter("demand", MiB)
    medium.enter("write_back", MiB, count=100)
    medium.end_one()
    medium.now_ns += 60 * NS_PER_MS
    medium.end_one()
    beside_demand = medium.under_way()["write_back"]
    medium.now_ns += 2000 * NS_PER_MS
    medium.end_one()
    assert beside_demand == 8
    assert medium.under_way() == {"write_back": IN_FLIGHT_BYTES_MAX // MiB}


async def test_what_is_urged_goes_with_demand() -> None:
    medium = Medium()
    medium.enter("demand", 8)
    medium.enter("prefetch", 8, count=2)
    [urged] = medium.enter("prefetch", 8)
    medium.lanes.urge(urged)
    medium.end_one()
    assert urged.granted.done()


async def test_urging_what_is_under_way_or_over_does_no_harm() -> None:
    medium = Medium()
    [ticket] = medium.enter("prefetch")
    medium.lanes.urge(ticket)
    medium.end_one()
    medium.lanes.urge(ticket)
    medium.lanes.leave(ticket)
    medium.enter("write_back", 8)
    assert medium.under_way() == {"write_back": 1}


async def test_who_leaves_the_queue_holds_nobody_up() -> None:
    medium = Medium()
    medium.enter("demand", 8)
    for ticket in medium.enter("demand", 8, count=2):
        ticket.granted.cancel()
        medium.lanes.leave(ticket)
        medium.tickets.remove(ticket)
    medium.enter("demand", 8)
    medium.end_one()
    assert medium.under_way() == {"demand": 1}


async def test_way_is_made_for_a_client_that_reads_by_itself() -> None:
    """Demand reads were slowed down 2.5 times by write-back, although all of them were granted at
    once: clients made them by themselves, and the lanes knew nothing of them."""
    medium = Medium()
    medium.lanes.expect_demand()
    medium.enter("write_back", count=4)
    assert medium.under_way() == {"write_back": 1}
    medium.end_one()
    assert medium.under_way() == {"write_back": 1}
    medium.now_ns += 100 * NS_PER_MS
    medium.end_one()
    assert medium.under_way() == {"write_back": 2}


async def test_a_medium_of_several_devices_takes_as_much_for_each() -> None:
    """The limit was one for a whole tier: of four directories it kept hardly one device busy."""
    medium = Medium()
    medium.lanes = Lanes(lambda: medium.now_ns, bytes_max=8, devices=4)
    medium.enter("demand", count=40)
    assert medium.under_way() == {"demand": 4 * 8}
