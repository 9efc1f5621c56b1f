"""What SGLang 0.5.23 asks of a storage backend, and memory as its host pools lay it out.

Both were read from the package, which cannot be imported without a GPU: the signatures in
`mem_cache/hicache_storage.py`, the layouts in `mem_cache/pool_host/{mha,mla}.py`.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import torch

VERSION: Final = "0.5.23"

METHODS: Final = {
    "register_mem_pool_host": "mem_pool_host",
    "register_mem_host_pool_v2": "host_pool, host_pool_name",
    "on_host_pools_registered": "",
    "batch_get_v1": "keys, host_indices, extra_info=",
    "batch_set_v1": "keys, host_indices, extra_info=",
    "get": "key, target_location=, target_sizes=",
    "batch_get": "keys, target_locations=, target_sizes=",
    "set": "key, value=, target_location=, target_sizes=",
    "batch_set": "keys, values=, target_locations=, target_sizes=",
    "exists": "key",
    "batch_exists": "keys, extra_info=",
    "clear": "",
    "get_stats": "",
}
"""Methods of `HiCacheStorage` and their parameters; with "=" those that have a default."""

FOR_MORE_POOLS: Final = frozenset({"batch_exists_v2", "batch_get_v2", "batch_set_v2"})
"""Its other methods, which SGLang calls only where it registered more pools than one."""

TOKENS: Final = 4
"""Of a page."""


@dataclass(frozen=True)
class StorageConfig:
    """The fields of `HiCacheStorageConfig`."""

    model_name: str | None = "tiny"
    extra_config: dict[str, Any] | None = None
    is_mla_model: bool = False
    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    attn_cp_rank: int = 0
    attn_cp_size: int = 1
    enable_storage_metrics: bool = False
    is_page_first_layout: bool = False
    tp_lcm_size: int | None = None
    should_split_heads: bool = False
    dp_rank: int = 0
    dcp_size: int = 1
    dcp_rank: int = 0
    logical_page_size: int | None = None

    @property
    def is_storage_writer(self) -> bool:
        return not self.is_mla_model or self.tp_rank == self.dcp_rank


@dataclass
class MhaPool:
    """As `MHATokenToKVPoolHost`: keys, then values, of all pages."""

    layout: str
    page_num: int = 16
    layer_num: int = 3
    head_num: int = 2
    head_dim: int = 8
    dtype: torch.dtype = torch.bfloat16
    page_size: int = TOKENS
    kv_buffer: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        pages, layers, heads, width = self.page_num, self.layer_num, self.head_num, self.head_dim
        self.size = pages * self.page_size
        shape = {
            "layer_first": (2, layers, self.size, heads, width),
            "page_first": (2, self.size, layers, heads, width),
            "page_first_direct": (2, pages, layers, self.page_size, heads, width),
            "page_head": (2, pages, heads, self.page_size, layers, width),
            "page_unified": (pages, heads, layers, 2, self.page_size, width),
        }[self.layout]
        self.kv_buffer = torch.zeros(shape, dtype=self.dtype)

    def get_page_buffer_meta(self, indices: torch.Tensor) -> tuple[list[int], list[int]]:
        if self.layout == "page_unified":
            raise ValueError(self.layout)
        token_bytes = self.head_num * self.head_dim * self.dtype.itemsize
        base = self.kv_buffer.data_ptr()
        values = self.layer_num * self.size * token_bytes
        addresses = []
        for index in indices.tolist()[:: self.page_size]:
            if self.layout == "layer_first":
                for layer in range(self.layer_num):
                    keys = base + (index + layer * self.size) * token_bytes
                    addresses += [keys, keys + values]
            else:
                keys = base + index * self.layer_num * token_bytes
                addresses += [keys, keys + values]
        layers = 1 if self.layout == "layer_first" else self.layer_num
        return addresses, [layers * self.page_size * token_bytes] * len(addresses)

    def get_data_page(self, index: int) -> torch.Tensor:
        page, at = self.page_size, index // self.page_size
        return {
            "layer_first": lambda: self.kv_buffer[:, :, index : index + page],
            "page_first": lambda: self.kv_buffer[:, index : index + page],
            "page_first_direct": lambda: self.kv_buffer[:, at : at + 1],
            "page_head": lambda: self.kv_buffer[:, at : at + 1],
        }[self.layout]().flatten()


@dataclass
class MlaPool:
    """As `MLATokenToKVPoolHost`: one tensor holds what keys and values are made of."""

    layout: str
    page_num: int = 16
    layer_num: int = 3
    kv_cache_dim: int = 24
    dtype: torch.dtype = torch.bfloat16
    page_size: int = TOKENS
    kv_buffer: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.page_num * self.page_size
        shape = {
            "layer_first": (self.layer_num, self.size, 1, self.kv_cache_dim),
            "page_first": (self.size, self.layer_num, 1, self.kv_cache_dim),
            "page_first_direct": (self.page_num, self.layer_num, TOKENS, 1, self.kv_cache_dim),
        }[self.layout]
        self.kv_buffer = torch.zeros(shape, dtype=self.dtype)

    def get_page_buffer_meta(self, indices: torch.Tensor) -> tuple[list[int], list[int]]:
        token_bytes = self.kv_cache_dim * self.dtype.itemsize
        base = self.kv_buffer.data_ptr()
        addresses = []
        for index in indices.tolist()[:: self.page_size]:
            if self.layout == "layer_first":
                steps = range(self.layer_num)
                addresses += [base + (index + layer * self.size) * token_bytes for layer in steps]
            else:
                addresses.append(base + index * self.layer_num * token_bytes)
        layers = 1 if self.layout == "layer_first" else self.layer_num
        return addresses, [layers * self.page_size * token_bytes] * len(addresses)

    def get_data_page(self, index: int) -> torch.Tensor:
        page, at = self.page_size, index // self.page_size
        return {
            "layer_first": lambda: self.kv_buffer[:, index : index + page],
            "page_first": lambda: self.kv_buffer[index : index + page],
            "page_first_direct": lambda: self.kv_buffer[at : at + 1],
        }[self.layout]().flatten()


Pool = MhaPool | MlaPool


def places(pages: list[int]) -> torch.Tensor:
    """Return the token indices of pages of a pool, as SGLang hands them over."""
    tokens = torch.arange(TOKENS)
    return torch.cat([page * TOKENS + tokens for page in pages])


def fill(pool: Pool, pages: list[int], seed: int) -> list[torch.Tensor]:
    """Write random KV to pages of a pool; return them flat."""
    pool.kv_buffer.copy_(
        torch.randn(pool.kv_buffer.shape, generator=torch.Generator().manual_seed(seed))
    )
    return flat(pool, pages)


def flat(pool: Pool, pages: list[int]) -> list[torch.Tensor]:
    """Return pages of a pool as SGLang copies them."""
    return [pool.get_data_page(page * TOKENS).clone() for page in pages]
