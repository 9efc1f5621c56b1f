"""Blocks that an engine names one by one: what is missing, wrong or too much ends nothing else."""

from collections.abc import Iterator, Sequence
from hashlib import shake_128

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.daemons import PATIENCE_S, Daemon, eventually
from tierd.core.errors import InvalidRequest
from tierd.core.units import KiB, MiB
from tierd_client import adopt_keys, opaque_layout
from tierd_client.apart import Apart
from tierd_client.engines.link import Link
from tierd_client.engines.singles import Extents, Singles, extent_of
from tierd_client.results import Published

LAYOUT = opaque_layout("singles", block_tokens=1, token_bytes=4096)
Came = list[bool]

SIZES = ([4096], [1024, 3000, 72])
"""Of the buffers of a block: one, or several pieces."""


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(16 * MiB)


@pytest.fixture
def singles(daemon: Daemon) -> Iterator[Singles]:
    link = Link(daemon.address, "test")
    yield Singles(link, LAYOUT)
    link.close()


def names(*numbers: int) -> list[bytes]:
    return [f"name {number}".encode() for number in numbers]


def filled(named: Sequence[bytes], sizes: Sequence[int]) -> list[list[bytearray]]:
    """Return for each name the buffers that its block comes from."""
    blocks = []
    for name in named:
        left = bytearray(shake_128(name).digest(sum(sizes)))
        blocks.append([bytearray(left[sum(sizes[:at]) :][:size]) for at, size in enumerate(sizes)])
    return blocks


def empty(named: Sequence[bytes], sizes: Sequence[int]) -> list[list[bytearray]]:
    return [[bytearray(size) for size in sizes] for _ in named]


def extents(blocks: Sequence[Sequence[bytearray]]) -> list[Extents]:
    return [[extent_of(buffer) for buffer in block] for block in blocks]


def publish(singles: Singles, named: Sequence[bytes], sizes: Sequence[int]) -> list[Published]:
    """Publish blocks whose bytes follow from their names."""
    blocks = filled(named, sizes)
    return singles.publish(named, extents(blocks))


def fetch(singles: Singles, named: Sequence[bytes], into: Sequence[Sequence[bytearray]]) -> Came:
    return singles.fetch(named, extents(into), PATIENCE_S)


@pytest.mark.parametrize("sizes", SIZES, ids=["whole", "pieces"])
def test_what_is_missing_ends_nothing(singles: Singles, sizes: list[int]) -> None:
    there, asked = names(0, 1, 2, 5, 6), names(6, 9, 0, 1, 7, 8, 2, 5)
    assert [each.blocks for each in publish(singles, there, sizes)] == [1] * 5
    held = [True, False, True, True, False, False, True, True]
    assert singles.held(asked) == held
    assert singles.held_prefix(asked) == 1
    assert singles.held_prefix(there) == 5
    into, wanted = empty(asked, sizes), filled(asked, sizes)
    assert fetch(singles, asked, into) == held
    assert [a == b for a, b in zip(into, wanted, strict=True)] == held
    ends = publish(singles, asked, sizes)
    assert [each.held for each in ends] == list(map(int, held))
    assert sum(each.blocks for each in ends) == 3
    assert all(singles.held(asked))


@pytest.mark.parametrize("sizes", SIZES, ids=["whole", "pieces"])
def test_a_name_may_come_twice(singles: Singles, sizes: list[int]) -> None:
    twice = names(1, 2, 1, 3, 3)
    ends = publish(singles, twice, sizes)
    assert [(each.blocks, each.held) for each in ends] == [(1, 0), (1, 0), (0, 1), (1, 0), (0, 1)]
    assert singles.held(twice) == [True] * 5
    into = empty(twice, sizes)
    assert fetch(singles, twice, into) == [True] * 5
    assert into == filled(twice, sizes)


@pytest.mark.parametrize("sizes", SIZES, ids=["whole", "pieces"])
def test_a_block_that_cannot_be_read_ends_nothing(
    daemon: Daemon, singles: Singles, sizes: list[int]
) -> None:
    there = names(*range(20))
    publish(singles, there, sizes)
    eventually(lambda: daemon.status().tiers[1].blocks == 20)
    daemon.stop()
    [block] = filled(there[7:8], [4096])
    for path in daemon.segments():
        at = path.read_bytes().find(block[0])
        if at >= 0:
            with path.open("r+b") as segment:
                segment.seek(at)
                segment.write(b"wrong")
    daemon.start()
    eventually(lambda: all(singles.held(there)))
    into = empty(there, sizes)
    came = fetch(singles, there, into)
    assert [at for at, has_come in enumerate(came) if not has_come] == [7]
    wanted = filled(there, sizes)
    assert [at for at in range(20) if into[at] != wanted[at]] == [7]
    eventually(lambda: singles.held(there).count(False) == 1)


def test_what_was_looked_for_in_vain_is_counted(daemon: Daemon, singles: Singles) -> None:
    publish(singles, names(1, 3), SIZES[0])
    assert singles.held(names(1, 2, 3, 4)) == [True, False, True, False]
    (namespace,) = daemon.status().namespaces
    assert (namespace.tokens_asked, namespace.tokens_missed) == (2, 2)


def test_without_room_the_rest_is_declined(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(tiers__host__bytes=256 * KiB)
    link = Link(daemon.address, "test")
    singles, many = Singles(link, LAYOUT), names(*range(100))
    with daemon.client() as client:
        kept = Apart(adopt_keys(LAYOUT.root, many[:2]))
        publish(singles, many[:2], [4096])
        with client.open(LAYOUT).hold(kept):  # What is leased gives no room.
            ends = publish(singles, many, [4096])
    link.close()
    assert [each.held for each in ends[:2]] == [1, 1]
    count = sum(each.blocks for each in ends)
    assert 40 < count < 64
    assert all(each.blocks for each in ends[2 : 2 + count])
    assert all(each.declined for each in ends[2 + count :])


def test_more_names_than_one_message_has(singles: Singles) -> None:
    many = names(*range(2500))
    for start in (0, 1200):
        part = many[start : start + 100]
        assert all(each.blocks for each in publish(singles, part, [4096]))
    assert singles.held_prefix(many) == 100
    assert [at for at, held in enumerate(singles.held(many)) if held] == [
        *range(100),
        *range(1200, 1300),
    ]
    into = empty(many, [4096])
    came = fetch(singles, many, into)
    there = [*range(100), *range(1200, 1300)]
    assert [at for at, has_come in enumerate(came) if has_come] == there
    assert [into[at] for at in there] == filled([many[at] for at in there], [4096])


@pytest.mark.parametrize("sizes", [[4097], [4095], [1024, 3000, 73], [1024, 3000, 71]], ids=str)
def test_memory_of_another_size_than_a_blocks_is_refused(
    singles: Singles, sizes: list[int]
) -> None:
    """More would be written over the neighbour's slot, or into whatever follows a buffer."""
    [name] = names(1)
    neighbours = names(2, 3)
    publish(singles, neighbours, [4096])
    with pytest.raises(InvalidRequest, match=f"block is {sum(sizes)} bytes: give 4096"):
        publish(singles, [name], sizes)
    publish(singles, [name], [4096])
    with pytest.raises(InvalidRequest, match=f"block is {sum(sizes)} bytes: give 4096"):
        fetch(singles, [name], empty([name], sizes))
    into = empty(neighbours, [4096])
    assert all(fetch(singles, neighbours, into))
    assert into == filled(neighbours, [4096])


def test_without_a_daemon_nothing_is_held_and_all_is_declined(daemon: Daemon) -> None:
    daemon.stop()
    link = Link(daemon.address, "test")
    singles, some = Singles(link, LAYOUT), names(1, 2)
    assert singles.held(some) == [False] * 2
    assert singles.held_prefix(some) == 0
    assert fetch(singles, some, empty(some, [4096])) == [False] * 2
    assert [each.declined for each in publish(singles, some, [4096])] == [1, 1]
    link.close()
