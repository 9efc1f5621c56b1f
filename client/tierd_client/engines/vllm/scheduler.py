"""The connector in vLLM's scheduler: what to load, what to save, and what to hold meanwhile.

A request is *matched* (`get_num_new_matched_tokens`, perhaps again and again), then given room
(`update_state_after_alloc`), then its load or its saves are part of a step (`build`), then the
workers say what came of it (`note`). It can end at any point between (`finished`). Leases are held
from the match until the load has ended: while it lasts, workers fetch under leases of their own.
"""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from vllm.v1.metrics.cache_hit_source import CacheHitSource

from tierd.core.keys import BlockKey, adopt_keys
from tierd.core.layouts import LayoutSpec
from tierd_client.engines.link import Link
from tierd_client.engines.vllm.events import Events
from tierd_client.engines.vllm.layout import adapter_digest
from tierd_client.engines.vllm.matching import Ask, Holding, Matcher
from tierd_client.engines.vllm.messages import Done, Load, Save, Work
from tierd_client.engines.vllm.paying import PROMPT_TOKENS_MIN, Offer, Rates
from tierd_client.engines.vllm.settings import Settings
from tierd_client.engines.vllm.stats import Stats

_SAVES_MAX: Final = 16
"""Saves under way; what is completed beyond is not saved then, but with the next block."""

_MISS_S: Final = 1.0
"""A request that found nothing, and is not scheduled, asks again after so long."""

_PATIENCE_S: Final = 1.0
"""How long the engine may wait for pages of a save instead of preempting a request."""

_SOURCES: Final = {
    "device": CacheHitSource.DEVICE,
    "host": CacheHitSource.HOST,
    "disk": CacheHitSource.DISK,
}


@dataclass(slots=True)
class _Tracked:
    """A request between its first match and its end.

    `offered` is the range of tokens that a load would bring, and `by_tier` how many blocks from
    where; `until` is where a load of what is held is worth ending, 0 before that is decided.
    `counted`: the daemon has counted what it lacks. `saved` blocks are published or about to be.
    Without a `root` nothing is found or saved.
    """

    request: Any
    root: BlockKey | None
    ask: Ask | None = None
    holding: Holding | None = None
    offered: tuple[int, int] = (0, 0)
    by_tier: dict[str, int] = field(default_factory=dict)
    until: int = 0
    loading_since_s: float = 0.0
    missed_s: float = float("-inf")
    counted: bool = False
    given_up: bool = False
    saved: int = 0


@dataclass(slots=True)
class _Pinned:
    """Pages of a save that the engine must not use again yet, and who still needs them."""

    pages: list[Any]
    workers: int
    since_s: float


class SchedulerSide:
    """Decides for all workers of an engine.

    Concurrency: called by the scheduler's thread alone.
    """

    def __init__(self, settings: Settings, config: Any, layouts: list[LayoutSpec]) -> None:
        self._settings = settings
        self._root = layouts[0].root
        self._block_tokens = layouts[0].block_tokens
        self._link = Link(settings.address, "vllm scheduler", layouts)
        self._matcher = Matcher(self._link)
        self._rates = Rates()
        self._events = Events(config, self._block_tokens)
        self._workers = config.parallel_config.world_size
        speculative = config.speculative_config
        self._drops_last = bool(speculative and speculative.use_eagle_block_drop())
        self._manager: Any = None
        self._page_tokens = 0
        self._hash_tokens = 0
        self._tracked: dict[str, _Tracked] = {}
        self._pinned: dict[int, _Pinned] = {}
        self._adapters: dict[tuple[str, str], BlockKey] = {}
        self._loads: list[Load] = []
        self._saves: list[Save] = []
        self._saves_made = 0
        self._unsealed: set[int] = set()
        # An engine that schedules ahead hears of a step when it has built the next.
        ahead = config.scheduler_config.async_scheduling
        depth = max(1 + bool(ahead), config.parallel_config.pipeline_parallel_size)
        self._steps: deque[tuple[int, float]] = deque(maxlen=depth)
        self._noted_s = 0.0
        self._stats = Stats()

    def bind(self, manager: Any, page_tokens: int, hash_tokens: int) -> None:
        """Take the engine's cache manager, and its tokens a page and a hash."""
        self._manager = manager
        self._page_tokens = page_tokens
        self._hash_tokens = hash_tokens
        self._events.hash_tokens = hash_tokens

    # ---- a request's way in

    def match(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """Return how many tokens beyond `computed` can be loaded; None to be asked again."""
        tracked = self._track(request)
        skips = request.skip_reading_prefix_cache or tracked.root is None
        if not self._settings.loads or skips:
            return 0, False
        # At least one token is computed: its logits are wanted. The engine's own hits end at a
        # whole page, too, and the results are to be the same.
        end = (request.num_tokens - 1) // self._page_tokens * self._page_tokens
        if tracked.given_up or end <= computed:
            self._let_go(tracked)
            return 0, False
        if tracked.holding is not None:
            tracked.holding.renew()
        elif not self._asked(tracked):
            return None if tracked.ask else 0, False
        return self._offer(tracked, computed, end)

    def _asked(self, tracked: _Tracked) -> bool:
        """Ask, or look for the answer; say whether it is there. Without an ask there is none."""
        if tracked.ask is None:
            if time.monotonic() - tracked.missed_s < _MISS_S:
                return False
            tokens = tracked.request.num_tokens
            keys = self._keys(tracked, tokens)
            compute_s = self._rates.compute_s(tokens)
            tracked.ask = self._matcher.ask(keys, compute_s, count_missing=not tracked.counted)
            if tracked.ask is None:
                return False
            tracked.counted = True
        tracked.holding = tracked.ask.answer()
        if tracked.holding is None:
            if tracked.ask.overdue:
                self._let_go(tracked)
                tracked.given_up = True
            return False
        tracked.ask = None
        self._events.matched(tracked.request, tracked.holding.blocks)
        return True

    def _offer(self, tracked: _Tracked, computed: int, end: int) -> tuple[int | None, bool]:
        """Return what of the held prefix is worth loading."""
        assert tracked.holding is not None
        held = tracked.holding.blocks * self._block_tokens
        if self._drops_last:
            held -= self._page_tokens
        offers = self._offers(tracked.holding, computed, min(held, tracked.until or end, end))
        if not offers:
            self._let_go(tracked)
            tracked.missed_s = time.monotonic()
            return 0, False
        # Decided once: a request that waits for room is asked for again and again.
        decides = self._settings.decline_slow_loads and not tracked.until
        chosen = self._rates.best(offers) if decides else offers[-1]
        if chosen is None:
            self._let_go(tracked)
            tracked.given_up = True
            return 0, False
        tracked.until = computed + chosen.tokens
        tracked.offered = (computed, tracked.until)
        tracked.by_tier = chosen.blocks
        return chosen.tokens, True

    def _offers(self, holding: Holding, start: int, end: int) -> list[Offer]:
        """Return the loads from token `start` on that end with a tier's part, or at `end`.

        What is nearer the root is in hotter tiers, or very nearly so.
        """
        size, first = self._block_tokens, start // self._block_tokens
        offers: list[Offer] = []
        blocks: dict[str, int] = {}
        at = 0
        for tier, count in holding.by_tier.items():
            stop = at + count
            wanted = min(stop, -(-end // size)) - max(at, first)
            at = stop
            if wanted > 0 and start < end:
                blocks[tier] = wanted
                offers.append(Offer(min(end, at * size) - start, dict(blocks)))
        return offers

    def allocated(self, request: Any, pages: Any, tokens: int) -> None:
        """Note the pages of a request; `tokens` of it are to be loaded."""
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            return
        if not tokens:
            self._let_go(tracked)
            return
        start, end = tracked.offered[0], tracked.offered[0] + tokens
        first, stop = start // self._page_tokens, -(-end // self._page_tokens)
        # Blocks before the first are here already, and not to be written again: others use them.
        table = tuple(
            [0] * min(first, len(ids)) + list(ids[first:stop]) for ids in pages.get_block_ids()
        )
        keys = self._keys(tracked, -(-end // self._block_tokens) * self._block_tokens)
        load = Load(request.request_id, keys, first, table, tracked.by_tier)
        self._loads.append(load)
        tracked.loading_since_s = time.monotonic()

    def sources(self, request: Any, tokens: int) -> dict[CacheHitSource, int]:
        """Return from which tiers the tokens of a load come, as vLLM counts them."""
        tracked = self._tracked.get(request.request_id)
        left, found = tokens, dict[CacheHitSource, int]()
        for tier, blocks in tracked.by_tier.items() if tracked else ():
            source = _SOURCES.get(tier, CacheHitSource.EXTERNAL_UNSPECIFIED)
            count = min(left, blocks * self._block_tokens)
            found[source] = found.get(source, 0) + count
            left -= count
        if left:
            rest = CacheHitSource.EXTERNAL_UNSPECIFIED
            found[rest] = found.get(rest, 0) + left
        return {source: count for source, count in found.items() if count}

    # ---- a step, and what comes of it

    def build(self, output: Any) -> Work:
        """Return what the workers do in the step that `output` describes."""
        scheduled = output.num_scheduled_tokens.items() if self._settings.saves else ()
        for name, tokens in scheduled:
            if (tracked := self._tracked.get(name)) is not None:
                request = tracked.request
                # Tokens not known yet, or guessed, have no hash: their blocks come later.
                known = min(request.num_computed_tokens + tokens, request.num_tokens)
                if known // self._block_tokens > tracked.saved:
                    self._save(tracked, known, self._manager.get_block_ids(name))
        work = Work(self._loads, self._saves, computes=output.total_num_scheduled_tokens > 0)
        self._loads, self._saves = [], []
        if work.computes:
            pieces = output.num_scheduled_tokens.values()
            prompt_tokens = sum(each for each in pieces if each >= PROMPT_TOKENS_MIN)
            self._steps.append((prompt_tokens, time.monotonic()))
        return work

    def note(self, output: Any) -> None:
        """Take what the workers say."""
        now_s = time.monotonic()
        if self._steps:
            prompt_tokens, built_s = self._steps.popleft()
            self._rates.computed(prompt_tokens, now_s - max(built_s, self._noted_s))
        self._noted_s = now_s
        done = output.kv_connector_worker_meta
        if not isinstance(done, Done):
            return
        self._stats.add(done)
        for name, loaded in done.loaded.items():
            tracked = self._tracked.get(name)
            if tracked is None or not tracked.loading_since_s:
                continue
            if loaded.failed:
                tracked.given_up = True
                self._rates.failed(tracked.by_tier, loaded.seconds)
            else:
                whole_s = now_s - tracked.loading_since_s
                self._rates.loaded(loaded.by_tier, loaded.seconds, whole_s)
                tracked.saved = max(tracked.saved, tracked.offered[1] // self._block_tokens)
        for name in output.finished_recving or ():
            if (tracked := self._tracked.get(name)) is not None:
                tracked.loading_since_s = 0.0
                self._let_go(tracked)
        for number, indices in done.sealed.items():
            self._unsealed.discard(number)
            self._events.stored(number, indices)
        for number, count in done.gathered.items():
            self._unpin(number, count)

    def finished(self, request: Any, table: tuple[list[int], ...]) -> None:
        """Note a request's end, whatever the reason. Its pages are freed by the engine."""
        tracked = self._tracked.pop(request.request_id, None)
        if tracked is None:
            return
        loading = tracked.loading_since_s > 0
        self._let_go(tracked)
        # The last token was not computed with. Of an engine that runs ahead of what it knows,
        # the last blocks are known only now.
        known = min(request.num_computed_tokens, request.num_tokens - 1)
        if not loading and known // self._block_tokens > tracked.saved:
            self._save(tracked, known, table)

    def preempted(self, names: Iterable[str]) -> None:
        """Note requests that lost their pages and start again."""
        for name in names:
            if (tracked := self._tracked.get(name)) is not None and not tracked.loading_since_s:
                tracked.saved = 0

    @property
    def frees_pages(self) -> bool:
        """Say whether pages come free soon, so that no request need be preempted for them."""
        oldest_s = min((pinned.since_s for pinned in self._pinned.values()), default=0.0)
        return oldest_s > 0 and time.monotonic() - oldest_s < _PATIENCE_S

    @property
    def publishes(self) -> bool:
        """Say whether saves are under way, whose end workers can only tell in a step."""
        return bool(self._pinned or self._unsealed)

    def events(self) -> list[Any]:
        """Return what happened to blocks since the last call, for vLLM's subscribers."""
        return self._events.take()

    def stats(self) -> Stats:
        """Return what was counted since the last call."""
        stats, self._stats = self._stats, Stats()
        return stats

    def close(self) -> None:
        """Give everything back."""
        for tracked in self._tracked.values():
            self._let_go(tracked)
        self._matcher.close()
        self._link.close()

    # ---- how

    def _track(self, request: Any) -> _Tracked:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            tracked = _Tracked(request, self._root_of(request))
            self._tracked[request.request_id] = tracked
        return tracked

    def _root_of(self, request: Any) -> BlockKey | None:
        """Return where a request's chain starts. Hashes name an adapter, but do not prove it."""
        adapter = request.lora_request
        if adapter is None:
            return self._root
        known = (adapter.lora_name, adapter.lora_path)
        # Once loaded it stays what it is in this engine, whatever becomes of its files.
        if known in self._adapters and not adapter.load_inplace:
            return self._adapters[known]
        digest = adapter_digest(adapter)
        if digest is None:
            return None
        (root,) = adopt_keys(self._root, [digest])
        # The engine's own cache does not notice that an adapter was replaced, and goes on from
        # blocks of the one before: what it has from then on is of neither.
        return root if self._adapters.setdefault(known, root) == root else None

    def _keys(self, tracked: _Tracked, tokens: int) -> list[BlockKey]:
        """Return the keys of a request's whole blocks among its first `tokens`."""
        if tracked.root is None:
            return []
        hashes = tracked.request.block_hashes
        step = self._block_tokens // self._hash_tokens
        count = min(tokens // self._block_tokens, len(hashes) // step)
        wanted = hashes[step - 1 : count * step : step]
        return adopt_keys(tracked.root, wanted)

    def _let_go(self, tracked: _Tracked) -> None:
        """Give back what is leased, or asked for, on behalf of a request."""
        if tracked.ask is not None:
            tracked.ask.forget()
            tracked.ask = None
        if tracked.holding is not None:
            tracked.holding.release()
            tracked.holding = None
        tracked.until = 0

    def _save(self, tracked: _Tracked, tokens: int, table: tuple[list[int], ...]) -> None:
        """Have the whole blocks among a request's first `tokens` published, if there is room."""
        if not self._settings.saves or len(self._pinned) >= _SAVES_MAX:
            return
        span = self._block_tokens // self._page_tokens
        keys = self._keys(tracked, tokens)
        first = len(keys)
        # Layers with a window lose their oldest pages; what lacks one cannot be published.
        while first and all(_has_all(ids, (first - 1) * span, span) for ids in table):
            first -= 1
        tracked.saved = len(keys)
        if first == len(keys):
            return
        pages = tuple(list(ids[first * span : len(keys) * span]) for ids in table)
        self._saves_made += 1
        self._saves.append(Save(self._saves_made, keys, first, pages))
        pool = self._manager.block_pool
        pinned = [pool.blocks[page] for ids in pages for page in ids]
        pool.touch(pinned)
        self._pinned[self._saves_made] = _Pinned(pinned, self._workers, time.monotonic())
        self._unsealed.add(self._saves_made)
        self._events.saving(self._saves_made, tracked.request)

    def _unpin(self, number: int, workers: int) -> None:
        pinned = self._pinned[number]
        pinned.workers -= workers
        if not pinned.workers:
            del self._pinned[number]
            self._manager.block_pool.free_blocks(reversed(pinned.pages))


def _has_all(ids: list[int], first: int, count: int) -> bool:
    """Say whether a table has every page of a range; 0 is none."""
    return len(ids) >= first + count and all(ids[first : first + count])
