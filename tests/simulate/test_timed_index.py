"""What the index writes a commit: pages of a tree, as a tree drawn by hand has them."""

from random import Random

import pytest

from tierd_bench.simulate.timed_index import SimulatedIndex, commit_pages


def test_a_small_index_is_one_leaf_and_what_every_commit_writes() -> None:
    assert commit_pages(1, 1) == commit_pages(8, 8)


def test_a_large_commit_touches_as_many_leaves_as_records_at_random() -> None:
    rng = Random(0)
    leaves, records = 2500, 100_000
    touched = [len({rng.randrange(leaves) for _ in range(400)}) for _ in range(50)]
    mean = sum(touched) / len(touched)
    pages = commit_pages(400, records)
    # Branches above the leaves, and a few pages besides.
    assert mean < pages < 1.2 * mean


def test_dropped_records_are_written_with_the_next_commit() -> None:
    index = SimulatedIndex()
    assert index.commit(0) == 0
    assert index.commit(100) > 0
    index.dropped += 40
    assert index.commit(0) > 0
    assert index.records == 60
    assert index.commit(0) == 0


@pytest.mark.parametrize("records", [10, 1000, 1_000_000])
def test_more_changes_never_write_less(records: int) -> None:
    pages = [commit_pages(changed, records) for changed in (1, 2, 8, 64, 512)]
    assert pages == sorted(pages)
