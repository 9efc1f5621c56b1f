"""A daemon killed twenty times while it works keeps its word."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tierd_bench.torture import Torture


def test_twenty_kills_lose_nothing_that_was_acknowledged() -> None:
    with TemporaryDirectory(prefix="tierd-torture-", dir="/var/tmp") as place:
        tally = Torture(Path(place), seed=7).run(iter(range(20)))
    assert tally.kills == 20
    assert tally.durable_blocks > 0
    assert tally.read_blocks > 0
    assert (tally.lost, tally.corrupt) == (0, 0), tally.notes
