"""A storage backend of SGLang's HiCache that keeps its pages in tierd.

    python -m sglang.launch_server ... --page-size 64 --enable-hierarchical-cache \\
        --hicache-storage-backend dynamic \\
        --hicache-storage-backend-extra-config '{"backend_name": "tierd", "interface_v1": 1,
            "module_path": "tierd_client.engines.sglang", "class_name": "TierdStorage"}'

The extra config may have `Options` of `singles.py` beside these. Where the ranks of an engine
are on several hosts, all have the `address` of one daemon.

A page's name is SGLang's hash of it, chained from the first token on. SGLang asks for the pages
behind those that it holds, and does not say reliably which these are: `prefix_keys` come only
with `hicache_storage_pass_prefix_keys`, and a prefetch leaves the pages of the node that it
continues out of them. So each page is a block by itself (`singles.py`). All of a call share a
message or two, but each costs some tens of microseconds whatever its size: too much for pages of
one token, which are SGLang's default.

Pages are copied between the daemon's memory and the registered host pool, and nowhere else. With
`interface_v1` that is where SGLang uses them; without, SGLang copies them once more.

Read with SGLang 0.5.23, which needs a GPU to be imported: the tests run against memory laid out
as its host pools lay it out, not in SGLang.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch

from tierd.core.errors import InvalidRequest
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd_client.engines.link import Link
from tierd_client.engines.singles import Extent, Extents, Options, Singles, options_of

if TYPE_CHECKING:
    HiCacheStorage = object
else:
    try:
        from sglang.srt.mem_cache.hicache_storage import HiCacheStorage
    except ImportError:
        HiCacheStorage = object

_ORDERS: Final = {
    "layer_first": "planes,layers,tokens,heads,head_size",
    "page_first": "planes,tokens,layers,heads,head_size",
    "page_first_direct": "planes,layers,tokens,heads,head_size",
    "page_head": "planes,heads,tokens,layers,head_size",
}
"""How the bytes of a flat page are arranged, by the layout of the pool."""

_POOL: Final = "kv"
"""SGLang's name for the pool with the keys and values."""


class TierdStorage(HiCacheStorage):
    """Pages of SGLang's host pool as blocks of tierd.

    Each tensor-parallel rank publishes a part of a page, and the page is found when all have. Of
    an MLA model all ranks have the same pages, and the first publishes. Stages of a pipeline and
    ranks of context parallelism have pages of their own. While the daemon is away nothing is
    found and sets fail; after a call that brought nothing a page may hold anything.

    Concurrency: any thread.

    Raises:
        InvalidRequest: an option has a value that it cannot have, or the model has no name.
    """

    def __init__(self, storage_config: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        self._options: Final = options_of(storage_config.extra_config or {}, "extra config")
        if storage_config.dcp_size > 1:
            raise InvalidRequest(
                "dcp_size", str(storage_config.dcp_size), "tierd keeps whole pages"
            )
        if not storage_config.model_name:
            raise InvalidRequest("model_name", "empty", "start with --served-model-name")
        self._config: Final = storage_config
        self._link: Final = Link(self._options.address, f"sglang {storage_config.tp_rank}")
        self._part: Final = 0 if storage_config.is_mla_model else storage_config.tp_rank
        self._singles: Singles | None = None

    # ---- the host pool

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Keep pages of this pool from now on.

        Raises:
            InvalidRequest: its layout is none that a page can be copied from, or its dtype does
                not say what its bytes are.
        """
        self.mem_pool_host = mem_pool_host
        layout = _layout_of(mem_pool_host, self._config, self._options)
        self._singles = Singles(self._link, layout, self._part)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Take note of one of several pools.

        Raises:
            InvalidRequest: it is another than that of the keys and values: a hybrid model's
                state is not kept, and without it the rest is of no use.
        """
        if str(host_pool_name) != _POOL:
            remedy = f"tierd keeps the pool {_POOL!r} alone; use another backend for this model"
            raise InvalidRequest("host pool", repr(str(host_pool_name)), remedy)

    def on_host_pools_registered(self) -> None:
        """Do nothing: each pool was looked at when it was registered."""

    # ---- interface_v1: pages where they are

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """Return how many pages are held, from the first key on, before one is not."""
        return self._pages.held_prefix(_names(keys))

    def batch_get_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: Any = None
    ) -> list[bool]:
        """Copy pages to their places in the pool; say of each whether it came."""
        return self._pages.fetch(_names(keys), self._places(host_indices), self._options.deadline_s)

    def batch_set_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: Any = None
    ) -> list[bool]:
        """Offer pages out of the pool; say of each whether it is kept, by whomever."""
        return self._publish(keys, self._places(host_indices))

    # ---- without it: flat pages, as SGLang copies them

    def get(
        self, key: str, target_location: Any = None, target_sizes: Any = None
    ) -> torch.Tensor | None:
        """Fill a flat page; return it, or None."""
        return self.batch_get([key], [target_location])[0]

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[torch.Tensor | None]:
        """Fill flat pages; return each, or None in its place."""
        into = [[_flat(page)] for page in target_locations]
        came = self._pages.fetch(_names(keys), into, self._options.deadline_s)
        return [
            page if has_come else None
            for page, has_come in zip(target_locations, came, strict=True)
        ]

    def set(
        self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None
    ) -> bool:
        """Offer a flat page; say whether it is kept."""
        return self.batch_set([key], [value])

    def batch_set(
        self,
        keys: list[str],
        values: Any = None,
        target_locations: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        """Offer flat pages; say whether all are kept."""
        return all(self._publish(keys, [[_flat(page)] for page in values]))

    def exists(self, key: str) -> bool:
        """Say whether a page is held."""
        return self.batch_exists([key]) == 1

    # ---- the rest of the interface

    def clear(self) -> None:
        """Do nothing: other engines have use for the pages, and the daemon makes room."""

    def get_stats(self) -> None:
        """Return nothing: the daemon has the figures."""

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._link.close()

    @property
    def _pages(self) -> Singles:
        assert self._singles is not None, "register_mem_pool_host comes first"
        return self._singles

    def _publish(self, keys: Sequence[str], pages: Sequence[Extents]) -> list[bool]:
        if not self._config.is_storage_writer:
            return [True] * len(keys)
        return [not each.declined for each in self._pages.publish(_names(keys), pages)]

    def _places(self, host_indices: torch.Tensor) -> list[Extents]:
        """Return where in the pool each page lies, in the order of a flat page."""
        pool = self.mem_pool_host
        pages = len(host_indices) // pool.page_size
        if not pages:
            return []
        extents = list(zip(*pool.get_page_buffer_meta(host_indices), strict=True))
        count = len(extents) // pages
        places: list[Extents] = [extents[at : at + count] for at in range(0, len(extents), count)]
        if pool.layout == "layer_first" and not self._config.is_mla_model:
            # Told layer by layer, keys and values in turn; a flat page has all keys first.
            places = [[*place[0::2], *place[1::2]] for place in places]
        return places


def _layout_of(pool: Any, config: Any, options: Options) -> LayoutSpec:
    order = _ORDERS.get(pool.layout)
    if order is None:
        known = ", ".join(_ORDERS)
        raise InvalidRequest("hicache_mem_layout", repr(pool.layout), f"choose one of {known}")
    dtype = str(pool.dtype).removeprefix("torch.")
    if dtype == "uint8" and not options.salt:
        remedy = 'two formats are kept as uint8: name yours in the extra config, as "salt"'
        raise InvalidRequest("dtype of the host pool", dtype, remedy)
    meta = pool.get_page_buffer_meta(torch.arange(pool.page_size))
    if not meta or not meta[1]:
        raise InvalidRequest("host pool", type(pool).__name__, "it has no memory to keep pages of")
    planes = 1 if config.is_mla_model else 2
    heads = 1 if config.is_mla_model else pool.head_num
    width, rest = divmod(
        sum(meta[1]), planes * pool.layer_num * heads * pool.page_size * pool.dtype.itemsize
    )
    if rest:
        raise InvalidRequest(
            "host pool", f"{sum(meta[1])} bytes a page", "its heads differ in size"
        )
    group = LayerGroup(pool.layer_num, kv_heads=heads, head_size=width, planes=planes)
    place = f"pp {config.pp_rank}/{config.pp_size}, cp {config.attn_cp_rank}/{config.attn_cp_size}"
    return LayoutSpec(
        model=config.model_name,
        groups=(group,),
        block_tokens=pool.page_size,
        dtype=dtype,
        shards=1 if config.is_mla_model else config.tp_size,
        revision=options.revision,
        order=f"sglang {order}; {place}",
        salt=options.salt,
    )


def _names(keys: Sequence[str]) -> list[bytes]:
    return [key.encode() for key in keys]


def _flat(page: torch.Tensor) -> Extent:
    return page.data_ptr(), page.numel() * page.element_size()
