"""What the daemon holds of a request, asked without ever keeping the scheduler waiting."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Final

from tierd.core.keys import BlockKey, adopt_keys
from tierd.core.layouts import LayoutSpec
from tierd_client.engines.link import Link
from tierd_client.renewal import Held

log = logging.getLogger("vllm.tierd")

_PATIENCE_S: Final = 0.002
"""How long the scheduler waits for an answer before it turns to other requests: a few times what
it takes. A daemon that is slower is asked again in the next step."""

_ANSWER_S_MIN: Final = 1.0
_ANSWER_RATIO: Final = 0.25
"""A request waits for so long for an answer, or this part of what computing it would take."""

_ASKED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Holding:
    """Leases on a request's prefix, one a pipeline stage. `by_tier` is that of the first."""

    held: tuple[Held, ...]

    @property
    def blocks(self) -> int:
        """How many blocks every stage has."""
        return min((each.blocks for each in self.held), default=0)

    @property
    def by_tier(self) -> dict[str, int]:
        """Where they are best read from."""
        return dict(self.held[0].by_tier) if self.held else {}

    def renew(self) -> None:
        """Keep the leases for longer."""
        for each in self.held:
            each.renew()

    def release(self) -> None:
        """Give the leases back. Safe to call twice."""
        for each in self.held:
            each.release()


class Ask:
    """One question to the daemon, under way or answered."""

    def __init__(self, future: "Future[Holding]", patience_s: float) -> None:
        self._future = future
        self._until_s = time.monotonic() + patience_s

    def answer(self) -> Holding | None:
        """Return the answer; None if it has not come yet."""
        try:
            error = self._future.exception(_PATIENCE_S)
        except FutureTimeoutError:
            return None
        if error is not None:
            log.error("a match failed; the request is computed", exc_info=error)
            return Holding(())
        return self._future.result()

    @property
    def answered(self) -> bool:
        """Say whether `answer` returns at once."""
        return self._future.done()

    @property
    def overdue(self) -> bool:
        """Say whether an answer would come too late to be of use."""
        return not self.answered and time.monotonic() > self._until_s

    def forget(self) -> None:
        """Give back what the answer leases, whenever it comes."""
        if not self._future.cancel():
            self._future.add_done_callback(_release)


class Matcher:
    """Asks the daemon in threads of its own.

    Concurrency: used by the scheduler's thread alone.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked: list[Ask] = []
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tierd-match")

    def ask(
        self, keys: Sequence[BlockKey], compute_s: float, *, count_missing: bool = False
    ) -> Ask | None:
        """Ask for the longest held prefix of `keys`, which it takes `compute_s` to compute.

        `count_missing`: as of `Namespace.match`. None if nobody would answer in time.
        """
        self._asked = [ask for ask in self._asked if not ask.answered]
        if not self._link.spaces or len(self._asked) >= _ASKED_MAX:
            return None
        if any(ask.overdue for ask in self._asked):
            return None  # The daemon stalls: every request is computed until it answers.
        patience_s = max(_ANSWER_S_MIN, compute_s * _ANSWER_RATIO)
        ask = Ask(self._threads.submit(self._hold, list(keys), count_missing), patience_s)
        self._asked.append(ask)
        return ask

    def close(self) -> None:
        """Give back whatever is still asked for."""
        for ask in self._asked:
            ask.forget()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _hold(self, keys: list[BlockKey], count_missing: bool) -> Holding:  # noqa: FBT001
        held = []
        for number, space in enumerate(self._link.spaces):
            own = stage_keys(space.layout, number, keys) if number else keys
            held.append(space.hold(own, count_missing=count_missing))
            if not held[-1].blocks:
                break
            keys = keys[: held[-1].blocks]
        return Holding(tuple(held))


def stage_keys(layout: LayoutSpec, number: int, keys: Sequence[BlockKey]) -> list[BlockKey]:
    """Return the keys that stage `number`, whose blocks are of `layout`, has for a chain.

    `keys` are those of the first stage. A key names one block in all of the daemon, and the same
    tokens have a block in every stage.
    """
    return adopt_keys(layout.root, keys) if number else list(keys)


def _release(future: "Future[Holding]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().release()
