"""An engine's paged KV memory: gather blocks out of it, scatter blocks into it. Needs torch.

An engine keeps, for each layer, a row of equal *pages*: one page holds the KV of one layer for one
of the engine's own blocks. A block of tierd covers `span` engine blocks and is layer-major:

    part  [layer, span, page_bytes of that layer]   one run of bytes

Layers come in groups; each group has a table of its own that says which pages a request has.
What the bytes within a page mean is the engine's business: they are copied as they are.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch

from tierd.core.errors import InvalidRequest
from tierd_client.buffers import Piece, Scattered

Table = Sequence[Sequence[int]]
"""For each group, the page of every engine block of a request; 0 where there is none."""

_WORD_BYTES: Final = 8


def pages_of(cache: torch.Tensor, pages: int) -> torch.Tensor:
    """Return a layer's cache as rows of bytes, one a page, without a copy.

    Shapes: cache [pages * m, ...] of any dtype; an engine may have cut each page into m pieces
    that follow one another. -> [pages, page_bytes] uint8, rows perhaps further apart than long.

    Raises:
        InvalidRequest: the bytes of a page do not lie together.
    """
    pieces = cache.shape[0] // pages if pages else 0
    if not pieces or cache.shape[0] % pages:
        raise InvalidRequest("cache", f"{cache.shape[0]} rows", f"a multiple of {pages} pages")
    piece = _dense_items(cache) * cache.element_size()
    stride = cache.stride(0) * cache.element_size()
    if pieces > 1 and stride != piece:
        raise InvalidRequest("cache", f"strides {cache.stride()}", "pages of adjoining pieces")
    whole = torch.empty(0, dtype=torch.uint8, device=cache.device)
    start = cache.storage_offset() * cache.element_size()
    return whole.set_(cache.untyped_storage(), start, (pages, pieces * piece), (pieces * stride, 1))


class PagedMemory:
    """The pages of all layers, and where each lies in a part.

    Shapes: `layers` are what `pages_of` returns, `groups[i]` is the group of layer i.

    Concurrency: any thread. Pages that are being gathered must not be written meanwhile, nor
    pages that are being scattered be used: the engine's scheduler sees to both.
    """

    def __init__(self, layers: Sequence[torch.Tensor], groups: Sequence[int], span: int) -> None:
        self.span = span
        self.device = layers[0].device
        self._layers = list(layers)
        self._groups = list(groups)
        sizes = [span * layer.shape[1] for layer in layers]
        self._offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        self.part_bytes = sum(sizes)
        self._of_groups = [
            [
                (layer.data_ptr(), layer.stride(0), layer.shape[1], offset)
                for layer, own, offset in zip(layers, groups, self._offsets, strict=True)
                if own == group
            ]
            for group in range(max(groups) + 1)
        ]

    def stream(self) -> torch.cuda.Stream | None:
        """Return a stream of its own on the pages' device; None for memory of the CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    # ---- memory of the CPU: one copy, between the pages and wherever the block is

    def places(self, table: Table, first: int, parts: int) -> Scattered:
        """Return where parts lie in the pages: part i has engine blocks from `first + i * span` on.

        Units: `first` counts engine blocks and may be negative for a part of which only the
        later blocks have pages; pages 0, and those the table does not reach, are left out.
        """
        starts = range(first, first + parts * self.span, self.span)
        return Scattered([list(self._pieces(table, start)) for start in starts], self.part_bytes)

    def _pieces(self, table: Table, first: int) -> Iterator[Piece]:
        """Yield the pages of one part, those of all layers together: often they are equidistant."""
        # The last groups of a table may have no layers here: these share the pages of others.
        for pages, layers in zip(table, self._of_groups, strict=False):
            for place, page, count in _runs(pages, first, self.span):
                for base, stride, size, offset in layers:
                    start = offset + place * size
                    if stride == size:
                        yield base + page * stride, start, count * size
                        continue
                    for index in range(count):
                        yield base + (page + index) * stride, start + index * size, size

    # ---- memory of a device: by way of one tensor of whole parts there

    def scatter_tensor(self, parts: torch.Tensor, table: Table, first: int) -> None:
        """Copy parts to their `places`, from [n, part_bytes] uint8 on the device of the pages.

        Stream: queued on the current stream.
        """
        for layer, rows, wanted, pages in self._rows(parts, table, first):
            _words(layer).index_copy_(0, pages, _words(rows.index_select(0, wanted)))

    def gather_tensor(self, table: Table, firsts: Sequence[int]) -> torch.Tensor:
        """Copy pages into a new tensor [len(firsts), part_bytes] on their device.

        Part i gets the `span` engine blocks from `firsts[i]` on.

        Stream: queued on the current stream. Every page must be there.
        """
        parts = torch.empty((len(firsts), self.part_bytes), dtype=torch.uint8, device=self.device)
        for layer, group, offset in zip(self._layers, self._groups, self._offsets, strict=True):
            ids = [page for at in firsts for page in table[group][at : at + self.span]]
            rows = layer.index_select(0, self._indices(ids)).view(len(firsts), -1)
            parts[:, offset : offset + rows.shape[1]] = rows
        return parts

    def _rows(
        self, parts: torch.Tensor, table: Table, first: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield, a layer: its pages, all rows in `parts`, which of them are wanted, and where."""
        chosen = []
        for pages in table:
            runs = list(_runs(pages, first, len(parts) * self.span))
            rows = [place + i for place, _, count in runs for i in range(count)]
            ids = [page + i for _, page, count in runs for i in range(count)]
            chosen.append((self._indices(rows), self._indices(ids)))
        for layer, group, offset in zip(self._layers, self._groups, self._offsets, strict=True):
            size = layer.shape[1]
            whole = parts[:, offset : offset + self.span * size].reshape(-1, size)
            yield layer, whole, *chosen[group]

    def _indices(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)


def _runs(pages: Sequence[int], first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield (place, page, count) of neighbouring pages among blocks `first`, ... of a table."""
    start = page = length = 0
    for index in range(max(first, 0), min(first + count, len(pages))):
        if length and pages[index] == page + length:
            length += 1
            continue
        if length:
            yield start, page, length
        start, page, length = index - first, pages[index], 1 if pages[index] else 0
    if length:
        yield start, page, length


def _dense_items(cache: torch.Tensor) -> int:
    """Return the items of one row of `cache`, which must be a run of memory in any order."""
    items = 1
    pairs = zip(cache.stride()[1:], cache.shape[1:], strict=True)
    for stride, size in sorted(pair for pair in pairs if pair[1] > 1):
        if stride != items:
            raise InvalidRequest("cache", f"strides {cache.stride()}", "dense pages")
        items *= size
    return items


def _words(rows: torch.Tensor) -> torch.Tensor:
    """View rows of bytes as rows of words where they allow it: fewer items to move."""
    fits = all(number % _WORD_BYTES == 0 for number in (rows.shape[1], rows.stride(0)))
    return rows.view(torch.int64) if fits and rows.data_ptr() % _WORD_BYTES == 0 else rows
