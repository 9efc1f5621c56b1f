"""The connector in a worker of vLLM: brings blocks into the engine's pages, and publishes them.

All bytes move in threads of this side, in calls that hold no lock of the interpreter. The engine's
own thread looks, once a step, for what has ended. It waits there a little: for loads where the
step computes nothing, since nothing else could be done then, and for saves a small part of what
the step took, so that their pages are soon free. Otherwise a busy engine would starve the threads.
"""

import logging
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final

from tierd.core.keys import BlockKey
from tierd_client.engines.link import Link
from tierd_client.engines.vllm.layout import Stage
from tierd_client.engines.vllm.loading import Loader, Outcome
from tierd_client.engines.vllm.matching import stage_keys
from tierd_client.engines.vllm.messages import Done, Load, Loaded, Work
from tierd_client.engines.vllm.saving import Saver
from tierd_client.engines.vllm.settings import Settings

_IDLE_WAIT_S: Final = 0.05
_BUSY_WAIT_S: Final = 0.0005
_SAVE_WAIT_S: Final = 0.005
_SAVE_WAIT_RATIO: Final = 0.02

log = logging.getLogger("vllm.tierd")


@dataclass(slots=True, eq=False)
class _Saving:
    """A save under way: `gathered` is set when its pages are free again."""

    number: int
    gathered: threading.Event
    future: "Future[list[int]]"
    reported: bool = False


class WorkerSide:
    """One worker's loads and saves.

    Concurrency: called by the worker's thread alone.
    """

    def __init__(self, settings: Settings, stage: Stage, *, groups: int) -> None:
        self._one_group = groups == 1
        self._link = Link(settings.address, f"vllm worker {stage.part}", [stage.layout])
        self._stage = stage
        self._loader = Loader(settings, stage)
        self._loader.prepare(self._link)
        self._saver = Saver(stage)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tierd-load")
        # One at a time: saves are in the order of their chains.
        self._background = ThreadPoolExecutor(1, thread_name_prefix="tierd-save")
        self._loads: dict[str, tuple[Load, Future[Outcome]]] = {}
        self._saves: deque[_Saving] = deque()
        self._done = Done()
        self._failed_pages: set[int] = set()
        self._failed_requests: set[str] = set()
        self._began_s = time.monotonic()

    # ---- a step, in the order in which vLLM calls

    def begin(self) -> None:
        """Note the start of a step."""
        self._began_s = time.monotonic()

    def start_loads(self, work: Work) -> None:
        """Start the step's loads."""
        for load in [replace(each, keys=self._keys(each.keys)) for each in work.loads]:
            future = self._threads.submit(self._loader.run, self._link, load)
            self._loads[load.request] = (load, future)

    def start_saves(self, work: Work) -> None:
        """Start the step's saves. The step has computed, or has queued, what they need."""
        ready = self._saver.mark()
        for save in [replace(each, keys=self._keys(each.keys)) for each in work.saves]:
            gathered = threading.Event()
            future = self._background.submit(self._saver.run, self._link, save, gathered, ready)
            self._saves.append(_Saving(save.number, gathered, future))

    def finish(self, work: Work) -> tuple[set[str], set[str]]:
        """Return the requests whose loads have ended, and of these the ones that failed whole."""
        if self._loads:
            wait_s = _BUSY_WAIT_S if work.computes else _IDLE_WAIT_S
            wait([each for _, each in self._loads.values()], wait_s, FIRST_COMPLETED)
        elif self._saves and work.computes:
            now_s = time.monotonic()
            until_s = now_s + (now_s - self._began_s) * _SAVE_WAIT_RATIO
            for saving in self._saves:
                saving.gathered.wait(max(0.0, until_s - time.monotonic()))
        elif self._saves:
            wait([self._saves[0].future], _SAVE_WAIT_S)
        ended = {name for name, (_, future) in self._loads.items() if future.done()}
        for name in ended:
            self._end_load(*self._loads.pop(name))
        for saving in list(self._saves):
            self._look(saving)
        failed, self._failed_requests = self._failed_requests, set()
        return ended, failed

    def failed_pages(self) -> set[int]:
        """Return the pages that the ended loads did not fill."""
        failed, self._failed_pages = self._failed_pages, set()
        return failed

    def done(self) -> Done | None:
        """Return what the scheduler has not heard yet."""
        done, self._done = self._done, Done()
        return done if done.loaded or done.gathered or done.sealed else None

    def close(self) -> None:
        """Let what is under way end, and give everything back."""
        self._threads.shutdown(cancel_futures=True)
        self._background.shutdown(cancel_futures=True)
        self._saver.close()
        self._link.close()

    # ---- how

    def _keys(self, keys: list[BlockKey]) -> list[BlockKey]:
        return stage_keys(self._stage.layout, self._stage.number, keys)

    def _end_load(self, load: Load, future: "Future[Outcome]") -> None:
        if (error := future.exception()) is not None:
            log.error("a load failed, and is computed instead", exc_info=error)
            outcome = Outcome(load.first, 0, 0.0, {})
        else:
            outcome = future.result()
        stop = max(len(ids) for ids in load.table)
        failed = outcome.reached < stop
        self._done.loaded[load.request] = Loaded(
            outcome.size, outcome.seconds, outcome.by_tier, failed
        )
        if failed and self._one_group:
            self._failed_pages.update(load.table[0][outcome.reached :])
        elif failed:
            self._failed_requests.add(load.request)

    def _look(self, saving: "_Saving") -> None:
        """Note how far a save is."""
        ended = saving.future.done()  # Looked at first: what ends in between is seen next time.
        if saving.gathered.is_set() and not saving.reported:
            saving.reported = True
            self._done.gathered[saving.number] = 1
        if ended:
            self._saves.remove(saving)
            if (error := saving.future.exception()) is not None:
                log.error("a save failed", exc_info=error)
            # Of several workers that have the same bytes only one has published them.
            if self._stage.publishes:
                self._done.sealed[saving.number] = [] if error else saving.future.result()
