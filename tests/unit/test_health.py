"""What a tier's faults and probes make of its state. Times are small whole numbers."""

from tierd.tiers.base import Probe
from tierd.transfer.health import Access, HealthLimits, TierHealth

LIMITS = HealthLimits(faults_max=3, window_ns=10, backoff_min_ns=4, backoff_max_ns=16, calm_ns=100)

WELL = Probe()
FULL = Probe(write_fault="ENOSPC")
DEAD = Probe("EIO", "EIO")


def faulted(access: Access, at_ns: int = 0) -> TierHealth:
    """Return a tier that had three faults at once."""
    health = TierHealth(LIMITS)
    fail(health, access, at_ns)
    return health


def fail(health: TierHealth, access: Access, at_ns: int) -> None:
    for place in range(LIMITS.faults_max):
        health.fault(access, place, "EIO", at_ns)


def test_a_few_faults_are_bad_luck() -> None:
    health = TierHealth(LIMITS)
    for now_ns in range(0, 60, 6):
        health.fault("read", now_ns, "EIO", now_ns)
    assert (health.state, health.next_probe_ns, health.faults) == ("online", None, 10)


def test_faults_within_the_window_degrade_it() -> None:
    health = TierHealth(LIMITS)
    for now_ns in (0, 5):
        health.fault("write", now_ns, "EIO", now_ns)
        assert health.state == "online"
    health.fault("write", 10, "ENOSPC", 10)
    assert (health.state, health.cause) == ("read_only", "ENOSPC")
    assert health.next_probe_ns == 14


def test_reads_and_writes_count_apart() -> None:
    health = TierHealth(LIMITS)
    for place in range(2):
        health.fault("read", place, "EIO", 0)
        health.fault("write", place, "EIO", 0)
    assert health.state == "online"


def test_one_bad_place_takes_no_tier_down_however_often_it_is_asked_for() -> None:
    health = TierHealth(LIMITS)
    for now_ns in range(10):
        health.fault("read", "a bad sector", "EIO", now_ns)
    assert health.state == "online"


def test_what_fails_to_be_read_is_offline_even_if_it_was_read_only() -> None:
    assert faulted("read").state == "offline"
    health = faulted("write")
    fail(health, "read", 3)
    assert health.state == "offline"
    assert health.next_probe_ns == 4, "the probe that was due comes no later"
    fail(health, "write", 5)
    assert health.state == "offline"


def test_one_stall_is_enough() -> None:
    for access, state in (("read", "offline"), ("write", "read_only")):
        health = TierHealth(LIMITS)
        health.stalled(access, "no answer", 7)  # type: ignore[arg-type]
        assert (health.state, health.next_probe_ns) == (state, 11)


def test_it_is_probed_at_growing_intervals_up_to_a_limit() -> None:
    health = faulted("read")
    due = []
    for _ in range(5):
        assert health.next_probe_ns is not None
        due.append(health.next_probe_ns)
        health.probed(DEAD, health.next_probe_ns)
    assert due == [4, 12, 28, 44, 60]


def test_it_comes_back_as_far_as_a_probe_finds() -> None:
    health = faulted("read")
    health.probed(FULL, 4)
    assert (health.state, health.cause) == ("read_only", "ENOSPC")
    health.probed(DEAD, 12)
    assert (health.state, health.cause) == ("offline", "EIO")
    health.probed(WELL, 28)
    assert (health.state, health.cause, health.next_probe_ns) == ("online", "", None)


def test_faults_from_before_its_return_are_forgotten() -> None:
    health = faulted("read")
    health.probed(WELL, 4)
    health.fault("read", 9, "EIO", 5)
    assert health.state == "online"


def test_one_that_fails_again_soon_is_left_alone_for_longer() -> None:
    health = faulted("write")
    health.probed(WELL, 4)
    fail(health, "write", 10)
    assert health.next_probe_ns == 10 + 8
    health.probed(WELL, 18)
    fail(health, "write", 20)
    assert health.next_probe_ns == 20 + 16


def test_one_that_was_well_for_long_starts_anew() -> None:
    health = faulted("write")
    health.probed(WELL, 4)
    fail(health, "write", 104)
    assert health.next_probe_ns == 104 + 4
