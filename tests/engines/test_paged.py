"""Blocks come out of an engine's pages, and go into others, byte for byte and nowhere else."""

import mmap
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tierd.core.errors import InvalidRequest
from tierd_client.buffers import copy_all
from tierd_client.engines.paged import PagedMemory, Table, pages_of

PAGES = 40
SPAN = 3


def caches(kind: str) -> list[torch.Tensor]:
    """Return four layers' caches, [pages, heads, tokens, values], as engines allocate them."""
    torch.manual_seed(0)
    shape = (PAGES, 2, 4, 8)
    if kind == "a layer after another":
        return [torch.randn(shape).to(torch.bfloat16) for _ in range(4)]
    if kind == "a page of all layers after another":
        whole = torch.randn((PAGES, 4, *shape[1:])).to(torch.bfloat16)
        return [whole[:, layer] for layer in range(4)]
    assert kind == "tokens before heads, pages of several sizes"
    small = [torch.randn((PAGES, 4, 2, 8)).transpose(1, 2) for _ in range(2)]
    return [*small, *(torch.randn((PAGES, 2, 4, 6)) for _ in range(2))]


KINDS = (
    "a layer after another",
    "a page of all layers after another",
    "tokens before heads, pages of several sizes",
)
GROUPS = (0, 1, 0, 1)


@pytest.fixture(params=KINDS)
def layers(request: pytest.FixtureRequest) -> list[torch.Tensor]:
    return caches(request.param)


def memory_of(layers: Sequence[torch.Tensor]) -> PagedMemory:
    return PagedMemory([pages_of(layer, PAGES) for layer in layers], GROUPS, SPAN)


def gather(
    memory: PagedMemory, parts: Sequence[memoryview], pages: Table, firsts: Sequence[int]
) -> None:
    """Copy pages into parts: `parts[i]` gets the engine blocks from `firsts[i]` on."""
    for part, first in zip(parts, firsts, strict=True):
        places = memory.places(pages, first, 1)
        copy_all(places.copies_to(0, address(part), memory.part_bytes, 1), None)


def scatter(memory: PagedMemory, parts: Sequence[memoryview], pages: Table) -> None:
    """Copy parts into the pages of a request, from its start on."""
    places = memory.places(pages, 0, len(parts))
    for index, part in enumerate(parts):
        copy_all(places.copies_into(index, 0, address(part), memory.part_bytes), None)


def address(part: memoryview) -> int:
    return int(np.frombuffer(part, np.uint8).ctypes.data)


def parts_for(memory: PagedMemory, count: int) -> list[memoryview]:
    return [memoryview(mmap.mmap(-1, memory.part_bytes)) for _ in range(count)]


def table(seed: int, blocks: int) -> tuple[list[int], list[int]]:
    """Return the pages of `blocks` blocks for two groups: some neighbours, and never page 0."""
    pages = random.Random(seed).sample(range(1, PAGES), blocks * SPAN)
    return pages, sorted(pages)


def test_blocks_arrive_in_the_pages_of_another_request(
    layers: list[torch.Tensor],
) -> None:
    memory = memory_of(layers)
    source, target = table(1, 4), table(2, 4)
    before = [layer.clone() for layer in layers]
    parts = parts_for(memory, 4)
    gather(memory, parts, source, [0, SPAN, 2 * SPAN, 3 * SPAN])
    for layer in layers:
        layer.zero_()
    scatter(memory, parts, target)
    for layer, was, group in zip(layers, before, GROUPS, strict=True):
        wanted = torch.zeros_like(layer)
        wanted[target[group]] = was[source[group]]
        assert torch.equal(layer, wanted)


def test_a_part_is_layer_by_layer(layers: list[torch.Tensor]) -> None:
    memory = memory_of(layers)
    pages = table(3, 1)
    (part,) = parts_for(memory, 1)
    gather(memory, [part], pages, [0])
    wanted = b"".join(
        pages_of(layer, PAGES)[page].numpy().tobytes()
        for layer, group in zip(layers, GROUPS, strict=True)
        for page in pages[group]
    )
    assert bytes(part) == wanted


def test_pages_that_a_request_has_not_are_left_alone(layers: list[torch.Tensor]) -> None:
    memory = memory_of(layers)
    parts = parts_for(memory, 3)
    gather(memory, parts, table(4, 3), [0, SPAN, 2 * SPAN])
    for layer in layers:
        layer.zero_()
    # The first engine block is here already, the last is not wanted; a window left two pages.
    full = [0, *range(5, 5 + 3 * SPAN - 2)]
    window = [0] * (3 * SPAN - 3) + [30, 31]
    scatter(memory, parts, (full, window))
    for layer, group in zip(layers, GROUPS, strict=True):
        filled = {page for page in range(PAGES) if layer[page].any()}
        assert filled == {page for page in (full, window)[group] if page}


def test_a_group_may_have_no_layers_of_its_own(layers: list[torch.Tensor]) -> None:
    memory = memory_of(layers)
    (part,), (also,) = parts_for(memory, 1), parts_for(memory, 1)
    gather(memory, [part], table(6, 1), [0])
    gather(memory, [also], (*table(6, 1), [1, 2, 3]), [0])
    assert bytes(part) == bytes(also)


def test_by_way_of_one_tensor_the_bytes_are_the_same(layers: list[torch.Tensor]) -> None:
    memory = memory_of(layers)
    pages, parts = table(5, 3), parts_for(memory, 3)
    firsts = [2 * SPAN, 0, SPAN]
    gather(memory, parts, pages, firsts)
    whole = memory.gather_tensor(pages, firsts)
    assert [bytes(part) for part in parts] == [row.numpy().tobytes() for row in whole]
    target = ([0, *range(1, 3 * SPAN)], list(range(20, 20 + 3 * SPAN - 1)))
    scatter(memory, parts, target)
    wanted = [layer.clone() for layer in layers]
    for layer in layers:
        layer[1:].zero_()
    memory.scatter_tensor(whole, target, 0)
    for layer, copied, group in zip(layers, wanted, GROUPS, strict=True):
        for page in filter(None, target[group]):
            assert torch.equal(layer[page], copied[page])
        rest = [page for page in range(1, PAGES) if page not in target[group]]
        assert not layer[rest].any()


def test_a_page_cut_into_pieces_is_one_page() -> None:
    cache = torch.arange(PAGES * 2 * 8, dtype=torch.int32).view(PAGES * 2, 8)
    rows = pages_of(cache, PAGES)
    assert rows.shape == (PAGES, 64)
    assert rows[3].numpy().tobytes() == cache[6:8].numpy().tobytes()
    assert rows.data_ptr() == cache.data_ptr()


@pytest.mark.parametrize(
    "cache",
    [
        torch.zeros(4, PAGES, 8).transpose(0, 1),  # Heads before pages: a page lies in four places.
        torch.zeros(PAGES, 2, 8)[:, :, :7],
        torch.zeros(PAGES + 1, 8),
        torch.zeros(2 * PAGES, 2, 8)[:, 0],  # Two pieces with others between.
    ],
    ids=["scattered", "cut off", "odd", "apart"],
)
def test_pages_that_are_no_runs_of_bytes_are_refused(cache: torch.Tensor) -> None:
    with pytest.raises(InvalidRequest):
        pages_of(cache, PAGES)
