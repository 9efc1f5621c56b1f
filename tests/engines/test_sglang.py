"""`TierdStorage` keeps the contract of SGLang's storage backends, with a real daemon.

SGLang itself cannot be imported here. A stand-in pool has memory as the pools of SGLang 0.5.23
lay it out, and tells where its pages are in two ways, as these do: by addresses, which the
backend uses, and as flat pages, which the tests compare. Calls are made as its controller makes
them. Where SGLang can be imported, the signatures are compared with its own.
"""

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from os import kill
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
import torch

from tests.engines import sglang_contract as contract
from tests.engines.sglang_contract import MhaPool, MlaPool, Pool, StorageConfig, fill, flat, places
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tierd.core.errors import InvalidRequest
from tierd.core.units import KiB, MiB
from tierd_client.engines.sglang import TierdStorage

MHA_LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
MLA_LAYOUTS = ("layer_first", "page_first", "page_first_direct")

Attach = Callable[..., TierdStorage]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    daemon = Daemon(16 * MiB, listen__tcp="127.0.0.1:0", tiers__host__bytes=64 * MiB)
    yield daemon
    daemon.end()


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Makes backends as SGLang does; they end with the test."""
    made: list[TierdStorage] = []

    def make(address: str, pool: Pool, config: StorageConfig, **extra: Any) -> TierdStorage:
        given = {"backend_name": "tierd", "interface_v1": 1, "address": address, **extra}
        storage = TierdStorage(replace(config, extra_config=given), {})
        made.append(storage)
        storage.register_mem_pool_host(pool)
        storage.register_mem_host_pool_v2(pool, "kv")
        storage.on_host_pools_registered()
        return storage

    yield make
    for storage in made:
        storage.close()


def chain(seed: str, count: int) -> list[str]:
    """Return hashes as SGLang makes them: each of the one before it and what is new."""
    keys: list[str] = []
    for index in range(count):
        before = bytes.fromhex(keys[-1]) if keys else b""
        keys.append(sha256(before + f"{seed} {index}".encode()).hexdigest())
    return keys


def pools(model: str) -> list[Pool]:
    if model == "mla":
        return [MlaPool(layout) for layout in MLA_LAYOUTS]
    return [MhaPool(layout) for layout in MHA_LAYOUTS]


@pytest.mark.parametrize("model", ["mha", "mla"])
def test_pages_come_back_in_other_places(daemon: Daemon, attach: Attach, model: str) -> None:
    config = StorageConfig(f"places {model}", is_mla_model=model == "mla")
    for seed, pool in enumerate(pools(model)):
        storage = attach(daemon.address, pool, config, salt=pool.layout)
        keys = chain("places", 5)
        written = fill(pool, [3, 9, 1, 4, 12], seed)
        assert storage.batch_exists(keys) == 0
        assert storage.batch_set_v1(keys, places([3, 9, 1, 4, 12])) == [True] * 5
        pool.kv_buffer.zero_()
        assert storage.batch_exists(keys) == 5
        assert storage.batch_get_v1(keys, places([0, 2, 5, 15, 7])) == [True] * 5
        read = flat(pool, [0, 2, 5, 15, 7])
        assert all(map(torch.equal, read, written)), pool.layout
        untouched = flat(pool, [1, 3, 4, 6, 8, 9])
        assert not any(page.any() for page in untouched), pool.layout


@pytest.mark.parametrize("model", ["mha", "mla"])
def test_flat_pages_are_the_same_blocks(daemon: Daemon, attach: Attach, model: str) -> None:
    config = StorageConfig(f"flat {model}", is_mla_model=model == "mla")
    for seed, pool in enumerate(pools(model)):
        storage = attach(daemon.address, pool, config, salt=pool.layout)
        keys = chain("flat", 4)
        written = fill(pool, [1, 2, 3, 4], seed)
        assert all(storage.batch_set_v1(keys[:2], places([1, 2])))
        assert storage.batch_set(keys[2:], written[2:])
        assert storage.exists(keys[2])
        room = [torch.zeros_like(page) for page in written]
        read = storage.batch_get(keys, room)
        assert all(page is place for page, place in zip(read, room, strict=True))
        assert all(map(torch.equal, room, written)), pool.layout
        pool.kv_buffer.zero_()
        assert all(storage.batch_get_v1(keys, places([8, 6, 7, 5])))
        assert all(map(torch.equal, flat(pool, [8, 6, 7, 5]), written)), pool.layout
        assert storage.get("0" * 64, room[0]) is None


def test_layouts_with_the_same_flat_pages_share_them(daemon: Daemon, attach: Attach) -> None:
    config = StorageConfig("shared")
    layers, direct, tokens = (
        MhaPool(each) for each in ("layer_first", "page_first_direct", "page_first")
    )
    keys = chain("shared", 2)
    written = fill(layers, [0, 1], 1)
    assert all(attach(daemon.address, layers, config).batch_set_v1(keys, places([0, 1])))
    assert all(attach(daemon.address, direct, config).batch_get_v1(keys, places([6, 2])))
    assert all(map(torch.equal, flat(direct, [6, 2]), written))
    assert attach(daemon.address, tokens, config).batch_exists(keys) == 0


def test_a_rank_on_another_host_shares_pages(daemon: Daemon, attach: Attach) -> None:
    pool, config = MhaPool("layer_first"), StorageConfig("hosts")
    here, there = (attach(address, pool, config) for address in (daemon.address, daemon.tcp))
    keys = chain("hosts", 4)
    written = fill(pool, [0, 1, 2, 3], 1)
    assert all(here.batch_set_v1(keys[:2], places([0, 1])))
    assert all(there.batch_set_v1(keys[2:], places([2, 3])))
    for storage in (here, there):
        pool.kv_buffer.zero_()
        assert storage.batch_exists(keys) == 4
        assert all(storage.batch_get_v1(keys, places([7, 6, 5, 4])))
        assert all(map(torch.equal, flat(pool, [7, 6, 5, 4]), written))


def test_what_another_process_stored_is_found_without_what_comes_before_it(
    daemon: Daemon, attach: Attach
) -> None:
    config = StorageConfig("suffix")
    keys = chain("suffix", 300)
    one, other = MhaPool("page_first", page_num=300), MhaPool("page_first", page_num=300)
    written = fill(one, list(range(300)), 1)
    first = attach(daemon.address, one, config)
    for start in range(0, 300, 128):  # as the controller hands them over
        part = list(range(start, min(start + 128, 300)))
        assert all(first.batch_set_v1([keys[at] for at in part], places(part)))
    second = attach(daemon.address, other, config)
    assert second.batch_exists(keys) == 300
    assert second.batch_exists(keys[200:]) == 100
    assert second.batch_exists([*keys[:70], "f" * 64, *keys[71:]]) == 70
    assert all(second.batch_get_v1(keys[200:], places(list(range(100)))))
    assert all(map(torch.equal, flat(other, list(range(100))), written[200:]))


def test_a_page_that_is_missing_does_not_come(daemon: Daemon, attach: Attach) -> None:
    pool = MhaPool("page_first")
    storage = attach(daemon.address, pool, StorageConfig("holes"))
    keys = chain("holes", 3)
    written = fill(pool, [0, 1], 1)
    assert all(storage.batch_set_v1(keys[:2], places([0, 1])))
    asked = [keys[2], keys[0], keys[1]]
    assert storage.batch_get_v1(asked, places([4, 5, 6])) == [False, True, True]
    assert all(map(torch.equal, flat(pool, [5, 6]), written))
    assert storage.batch_get_v1([], places([0])[:0]) == []


def test_pages_that_find_no_room_are_told(start_daemon: StartDaemon, attach: Attach) -> None:
    daemon = start_daemon(tiers__host__bytes=128 * KiB)
    pool, everywhere = MhaPool("layer_first", page_num=100), places(list(range(100)))
    storage = attach(daemon.address, pool, StorageConfig())
    keys = chain("room", 100)
    written = fill(pool, list(range(100)), 1)
    kept = storage.batch_set_v1(keys, everywhere)
    count = kept.count(True)
    assert 0 < count < 100
    assert kept == [True] * count + [False] * (100 - count)
    assert storage.batch_exists(keys) == count
    pool.kv_buffer.zero_()
    assert storage.batch_get_v1(keys, everywhere) == kept
    assert all(map(torch.equal, flat(pool, list(range(count))), written[:count]))


def test_a_page_is_there_when_every_rank_stored_its_part(daemon: Daemon, attach: Attach) -> None:
    config = StorageConfig("ranks", tp_size=2)
    pools = [MhaPool("page_first"), MhaPool("page_first")]
    ranks = [
        attach(daemon.address, pool, replace(config, tp_rank=rank))
        for rank, pool in enumerate(pools)
    ]
    keys = chain("ranks", 2)
    written = [fill(pool, [0, 1], rank) for rank, pool in enumerate(pools)]
    assert ranks[0].batch_set_v1(keys, places([0, 1])) == [True, True]
    assert ranks[1].batch_exists(keys) == ranks[0].batch_exists(keys) == 0
    assert ranks[1].batch_set_v1(keys, places([0, 1])) == [True, True]
    for rank, pool, mine in zip(ranks, pools, written, strict=True):
        assert rank.batch_exists(keys) == 2
        assert all(rank.batch_get_v1(keys, places([3, 4])))
        assert all(map(torch.equal, flat(pool, [3, 4]), mine))


def test_the_first_rank_alone_stores_pages_of_mla(daemon: Daemon, attach: Attach) -> None:
    config = StorageConfig("latent", is_mla_model=True, tp_size=2)
    pools = [MlaPool("page_first"), MlaPool("page_first")]
    first, second = (
        attach(daemon.address, pool, replace(config, tp_rank=rank))
        for rank, pool in enumerate(pools)
    )
    keys = chain("latent", 2)
    fill(pools[1], [0, 1], 2)
    assert second.batch_set_v1(keys, places([0, 1])) == [True, True]
    assert second.batch_exists(keys) == 0
    written = fill(pools[0], [0, 1], 1)
    assert first.batch_set_v1(keys, places([0, 1])) == [True, True]
    assert all(second.batch_get_v1(keys, places([5, 6])))
    assert all(map(torch.equal, flat(pools[1], [5, 6]), written))


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "another"},
        {"pp_rank": 1, "pp_size": 2},
        {"attn_cp_rank": 1, "attn_cp_size": 2},
        {"tp_size": 2},
        {"revision": "2"},
        {"salt": "fp8"},
        {"pool": {"dtype": torch.float16}},
        {"pool": {"layout": "page_head"}},
        {"pool": {"layer_num": 2, "head_num": 3}},
    ],
    ids=str,
)
def test_pages_of_another_kind_are_not_found(
    daemon: Daemon, attach: Attach, change: dict[str, Any]
) -> None:
    pool, keys = MhaPool("page_first"), chain("kinds", 1)
    config = StorageConfig("kinds")
    assert all(attach(daemon.address, pool, config).batch_set_v1(keys, places([0])))
    extra = dict(change)
    other = MhaPool(**{"layout": "page_first", **extra.pop("pool", {})})
    names = {each.name for each in fields(config)} & extra.keys()
    changed = replace(config, **{name: extra.pop(name) for name in names})
    assert attach(daemon.address, pool, config).batch_exists(keys) == 1
    assert attach(daemon.address, other, changed, **extra).batch_exists(keys) == 0


def test_a_daemon_that_is_away_costs_hits_only(start_daemon: StartDaemon, attach: Attach) -> None:
    daemon = start_daemon(16 * MiB)
    pool = MhaPool("layer_first")
    storage = attach(daemon.address, pool, StorageConfig())
    keys = chain("away", 4)
    written = fill(pool, [0, 1, 2, 3], 1)
    assert all(storage.batch_set_v1(keys, places([0, 1, 2, 3])))
    eventually(lambda: daemon.status().tiers[-1].blocks == 4)
    daemon.kill()
    assert storage.batch_exists(keys) == 0
    assert storage.batch_get_v1(keys, places([4, 5, 6, 7])) == [False] * 4
    assert storage.batch_set_v1(keys, places([0, 1, 2, 3])) == [False] * 4
    assert storage.get(keys[0], written[0].clone()) is None
    assert not storage.set(keys[0], written[0])
    daemon.start()
    eventually(lambda: storage.batch_exists(keys) == 4)
    pool.kv_buffer.zero_()
    assert all(storage.batch_get_v1(keys, places([7, 6, 5, 4])))
    assert all(map(torch.equal, flat(pool, [7, 6, 5, 4]), written))


def test_a_daemon_that_does_not_answer_is_not_waited_for_forever(
    start_daemon: StartDaemon, attach: Attach
) -> None:
    daemon = start_daemon()
    pool = MhaPool("page_first")
    storage = attach(daemon.address, pool, StorageConfig(), deadline_s=0.5)
    keys = chain("silent", 16)
    fill(pool, list(range(16)), 1)
    assert all(storage.batch_set_v1(keys[:8], places(list(range(8)))))
    kill(daemon.pid, SIGSTOP)
    try:
        assert storage.batch_get_v1(keys[:8], places(list(range(8)))) == [False] * 8
        assert storage.batch_exists(keys[:8]) == 0
        assert storage.batch_set_v1(keys[8:], places(list(range(8, 16)))) == [False] * 8
    finally:
        kill(daemon.pid, SIGCONT)

    def goes_on() -> bool:
        # What it was asked before it answers now, and what was asked for is given back then.
        storage.batch_set_v1(keys[8:], places(list(range(8, 16))))
        return storage.batch_exists(keys) == 16

    eventually(goes_on)


def test_sglang_starts_before_the_daemon(start_daemon: StartDaemon, attach: Attach) -> None:
    daemon = start_daemon()
    daemon.stop()
    pool = MhaPool("page_first")
    storage = attach(daemon.address, pool, StorageConfig())
    keys = chain("early", 1)
    assert storage.batch_set_v1(keys, places([0])) == [False]
    daemon.start()
    eventually(lambda: storage.batch_set_v1(keys, places([0])) == [True])
    assert storage.batch_exists(keys) == 1


def test_threads_of_a_controller_at_once(daemon: Daemon, attach: Attach) -> None:
    pool = MhaPool("page_first", page_num=64)
    storage = attach(daemon.address, pool, StorageConfig("threads"))
    written = fill(pool, list(range(32)), 1)
    keys = chain("threads", 32)

    def backup(start: int) -> bool:
        part = list(range(start, start + 8))
        return all(storage.batch_set_v1([keys[at] for at in part], places(part)))

    def prefetch(start: int) -> bool:
        part = list(range(start, start + 8))
        target = places([at + 32 for at in part])
        return all(storage.batch_get_v1([keys[at] for at in part], target))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(backup, range(0, 32, 8)))
        assert all(threads.map(prefetch, range(0, 32, 8)))
    assert all(map(torch.equal, flat(pool, list(range(32, 64))), written))


def test_what_cannot_be_kept_is_refused_with_a_remedy(attach: Attach, daemon: Daemon) -> None:
    config, pool = StorageConfig(), MhaPool("page_first")
    with pytest.raises(InvalidRequest, match=r"hicache_mem_layout is 'page_unified': choose one"):
        attach(daemon.address, MhaPool("page_unified"), config)
    with pytest.raises(InvalidRequest, match="model_name is empty"):
        attach(daemon.address, pool, replace(config, model_name=None))
    with pytest.raises(InvalidRequest, match=r"extra config.deadline_s is 0: give seconds"):
        attach(daemon.address, pool, config, deadline_s=0)
    with pytest.raises(InvalidRequest, match=r"extra config.salt is 8: give a string"):
        attach(daemon.address, pool, config, salt=8)
    eight_bits = MhaPool("page_first", dtype=torch.uint8)
    with pytest.raises(InvalidRequest, match="two formats are kept as uint8"):
        attach(daemon.address, eight_bits, config)
    storage = attach(daemon.address, eight_bits, config, salt="fp8_e4m3")
    with pytest.raises(InvalidRequest, match="host pool is 'mamba': tierd keeps the pool 'kv'"):
        storage.register_mem_host_pool_v2(pool, "mamba")


def signature(function: Callable[..., Any]) -> str:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return ", ".join(
        each.name + ("" if each.default is inspect.Parameter.empty else "=") for each in parameters
    )


def test_signatures_are_those_that_sglang_calls() -> None:
    ours = {name: signature(getattr(TierdStorage, name)) for name in contract.METHODS}
    assert ours == contract.METHODS


@pytest.mark.skipif(find_spec("sglang") is None, reason="SGLang is not installed")
def test_the_contract_is_that_of_the_sglang_installed_here() -> None:
    theirs: Any = import_module("sglang.srt.mem_cache.hicache_storage")
    base = theirs.HiCacheStorage
    assert issubclass(TierdStorage, base)
    public = {name for name, _ in inspect.getmembers(base, inspect.isfunction) if name[0] != "_"}
    assert public == contract.METHODS.keys() | contract.FOR_MORE_POOLS
    found = {name: signature(getattr(base, name)) for name in contract.METHODS}
    assert found == contract.METHODS
    given = {each.name for each in fields(theirs.HiCacheStorageConfig)}
    assert given == {each.name for each in fields(StorageConfig)}
