"""An L2 adapter of LMCache that keeps its objects in tierd.

    lmcache server ... --l2-adapter '{"type": "plugin",
        "module_path": "tierd_client.engines.lmcache", "class_name": "TierdL2Adapter"}'

`adapter_params` are `Options` of `singles.py`.

LMCache names objects by hashes of all tokens up to their end, in no order that an adapter could
rely on, and loads any of them; so each object is a block by itself (`singles.py`). Objects of
another shape or dtype are of another namespace. A lookup asks for objects of the shape that the
server says its chunks have: what a serde made smaller or larger is not found again.

Read and tested with LMCache 0.5.6.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import count
from math import prod
from typing import Any, Final

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.platform import create_event_notifier

from tierd.core.errors import InvalidRequest
from tierd.core.layouts import LayerGroup, LayoutSpec
from tierd_client.engines.link import Link
from tierd_client.engines.singles import Extents, Options, Singles, extent_of, options_of

_TASKS_MAX: Final = 2
"""Tasks of one kind at once. Those that LMCache waits for do not queue behind stores."""

log = logging.getLogger("tierd.client")


class TierdL2Adapter(L2AdapterInterface):
    """Objects of LMCache as blocks of tierd.

    Nothing is locked: what is evicted between lookup and load is not loaded, which LMCache takes
    as a miss. What is kept for how long is the daemon's to decide, so `delete` does nothing.
    While the daemon is away lookups find nothing and stores fail; neither waits for it.

    Concurrency: any thread.

    Raises:
        InvalidRequest: a parameter is unknown, or has a value that it cannot have.
    """

    def __init__(self, params: Mapping[str, Any], l1_memory_desc: object = None) -> None:
        super().__init__()
        known = [each.name for each in fields(Options)]
        for name in params:
            if name not in known:
                place = f"adapter_params.{name}"
                raise InvalidRequest(place, repr(params[name]), f"known are {', '.join(known)}")
        self._options: Final = options_of(params, "adapter_params")
        self._link: Final = Link(self._options.address, "lmcache")
        self._stores: Final = _Lane("stores")
        self._lookups: Final = _Lane("lookups")
        self._loads: Final = _Lane("loads")

    # ---- what LMCache waits for

    def get_store_event_fd(self) -> int:
        """Return what becomes readable when a store has ended."""
        return self._stores.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        """Return what becomes readable when a lookup has ended."""
        return self._lookups.fileno()

    def get_load_event_fd(self) -> int:
        """Return what becomes readable when a load has ended."""
        return self._loads.fileno()

    # ---- tasks

    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Start publishing `objects`; return the task's number."""
        work = partial(self._store, keys, objects)
        return self._stores.submit(work, L2StoreResult(success=False, bytes_transferred=0))

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """Return the results of stores that ended since the last call."""
        return self._stores.pop_all()

    def submit_lookup_and_lock_task(
        self, keys: list[Any], group_layout_descs: Mapping[int, Any]
    ) -> int:
        """Start looking `keys` up; return the task's number."""
        work = partial(self._look_up, keys, group_layout_descs)
        return self._lookups.submit(work, Bitmap(len(keys)))

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        """Return which keys are held, once; None before that is known."""
        return self._lookups.pop(task_id)

    def submit_unlock(self, keys: list[Any]) -> None:
        """Do nothing: nothing was locked."""

    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Start filling `objects`; return the task's number."""
        return self._loads.submit(partial(self._load, keys, objects), Bitmap(len(keys)))

    def query_load_result(self, task_id: int) -> Any:
        """Return which objects were filled, once; None before that is known."""
        return self._loads.pop(task_id)

    # ---- the rest of the interface

    def report_status(self) -> dict[str, Any]:
        """Say whether the daemon is there."""
        client = self._link.client
        tiers = client.tiers if client is not None else ()
        return {
            "is_healthy": bool(tiers),
            "type": type(self).__name__,
            "address": self._link.address,
            "tiers": list(tiers),
        }

    def close(self) -> None:
        """Wait for the tasks under way, and end the session."""
        lanes = (self._stores, self._lookups, self._loads)
        for lane in lanes:
            lane.finish()
        self._link.close()
        for lane in lanes:
            lane.close()

    # ---- in the threads of the lanes

    def _store(self, keys: Sequence[Any], objects: Sequence[Any]) -> Any:
        stored = total = 0
        for singles, indices in self._by_layout(keys, [_shape_of(each) for each in objects]):
            names = [_name(keys[index]) for index in indices]
            published = singles.publish(names, [_extents(objects[index]) for index in indices])
            new = [keys[i] for i, each in zip(indices, published, strict=True) if each.blocks]
            size = singles.layout.part_bytes
            stored += sum(not each.declined for each in published)
            total += size * len(new)
            if new:
                self._notify_keys_stored(new, [size] * len(new))
        return L2StoreResult(success=stored == len(keys), bytes_transferred=total)

    def _look_up(self, keys: Sequence[Any], descs: Mapping[int, Any]) -> Any:
        found = Bitmap(len(keys))
        groups = {group: _shape(desc.shapes, desc.dtypes) for group, desc in descs.items()}
        shapes = [groups.get(key.object_group_id) for key in keys]
        for singles, indices in self._by_layout(keys, shapes):
            held = singles.held([_name(keys[index]) for index in indices])
            for index, is_held in zip(indices, held, strict=True):
                if is_held:
                    found.set(index)
        return found

    def _load(self, keys: Sequence[Any], objects: Sequence[Any]) -> Any:
        loaded = Bitmap(len(keys))
        for singles, indices in self._by_layout(keys, [_shape_of(each) for each in objects]):
            names = [_name(keys[index]) for index in indices]
            into = [_extents(objects[index]) for index in indices]
            came = singles.fetch(names, into, self._options.deadline_s)
            for index, has_come in zip(indices, came, strict=True):
                if has_come:
                    loaded.set(index)
        if present := [keys[index] for index in loaded.get_indices_list()]:
            self._notify_keys_accessed(present)
        return loaded

    # ----

    def _by_layout(
        self, keys: Sequence[Any], shapes: Sequence["_Shape | None"]
    ) -> list[tuple[Singles, list[int]]]:
        """Sort keys by the namespace that they are in; those without a shape are in none."""
        rows: dict[tuple[str, _Shape], list[int]] = {}
        for index, (key, shape) in enumerate(zip(keys, shapes, strict=True)):
            if shape is not None:
                rows.setdefault((key.model_name, shape), []).append(index)
        return [(self._singles_of(*where), indices) for where, indices in rows.items()]

    def _singles_of(self, model: str, shape: "_Shape") -> Singles:
        group = LayerGroup(layers=1, kv_heads=1, head_size=shape.bytes, planes=1)
        layout = LayoutSpec(
            model=model,
            groups=(group,),
            block_tokens=1,
            dtype="uint8",
            revision=self._options.revision,
            order=f"lmcache object {shape.text}",
            salt=self._options.salt,
        )
        return Singles(self._link, layout)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What tells the bytes of two objects apart. Units: `bytes` of one object."""

    text: str
    bytes: int


class _Lane:
    """Threads for tasks of one kind, the results of those that ended, and word that there are.

    Whoever waits for a task is told in any case: of one that failed the result is `failed`.
    """

    def __init__(self, name: str) -> None:
        self._threads: Final = ThreadPoolExecutor(_TASKS_MAX, thread_name_prefix=f"tierd-{name}")
        self._notifier: Final = create_event_notifier()
        self._lock: Final = threading.Lock()
        self._results: dict[int, Any] = {}
        self._numbers: Final = count()

    def fileno(self) -> int:
        return int(self._notifier.fileno())

    def submit(self, work: Callable[[], Any], failed: Any) -> int:
        task = next(self._numbers)
        self._threads.submit(work).add_done_callback(partial(self._end, task, failed))
        return task

    def pop(self, task: int) -> Any:
        with self._lock:
            return self._results.pop(task, None)

    def pop_all(self) -> dict[int, Any]:
        with self._lock:
            results, self._results = self._results, {}
        return results

    def finish(self) -> None:
        """Wait for the tasks under way; those that wait to be begun fail."""
        self._threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        self._notifier.close()

    def _end(self, task: int, failed: Any, ended: "Future[Any]") -> None:
        error = None if ended.cancelled() else ended.exception()
        if error is not None:
            log.error("a task of LMCache failed", exc_info=error)
        with self._lock:
            self._results[task] = failed if ended.cancelled() or error else ended.result()
        self._notifier.notify()


def _shape(shapes: Sequence[Any], dtypes: Sequence[Any]) -> _Shape:
    """Return the shape that tensors of these shapes and dtypes have together."""
    rows = [(list(shape), dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    text = ", ".join(f"{str(dtype).removeprefix('torch.')} {shape}" for shape, dtype in rows)
    return _Shape(text, sum(prod(shape) * dtype.itemsize for shape, dtype in rows))


def _shape_of(held: Any) -> _Shape | None:
    """Return the shape of an object; None where its bytes are not what its shape says."""
    dtypes = held.get_dtypes()
    if None in dtypes:
        return None
    shape = _shape(held.get_shapes(), dtypes)
    return shape if shape.bytes == held.get_size() else None


def _extents(held: Any) -> Extents:
    return [extent_of(held.byte_array)]


def _name(key: Any) -> bytes:
    """Return all of a key but the model, so that no two keys have one name."""
    place = f"{key.kv_rank}@{key.object_group_id}@{key.cache_salt}@"
    return place.encode() + bytes(key.chunk_hash)
