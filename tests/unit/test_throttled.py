"""A throttled disk: when its transfers end follows from its rate, and its bytes are the disk's."""

from pathlib import Path

from tierd.core.pace import Pace
from tierd.core.units import NS_PER_S
from tierd.tiers.disk import DiskTier
from tierd.tiers.throttled import ThrottledTier


def test_transfers_are_over_one_after_another_at_the_rate() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.book(50, now_ns=0) == NS_PER_S // 2
    assert pace.book(100, now_ns=NS_PER_S // 4) == NS_PER_S * 3 // 2
    assert pace.bytes == 150


def test_time_in_which_nothing_was_asked_for_is_lost() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.book(100, now_ns=5 * NS_PER_S) == 6 * NS_PER_S
    assert pace.book(100, now_ns=9 * NS_PER_S) == 10 * NS_PER_S


async def test_the_label_says_what_it_is(tmp_path: Path) -> None:
    tier = ThrottledTier(DiskTier([tmp_path], threads=1), 300_000_000)
    assert tier.name == "disk"
    assert tier.medium == "segments, throttled to 300 MB/s"
    await tier.aclose()
