"""`TierdCache`: fetch what is stored of a prompt, generate, publish what is new."""

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from tierd.core.errors import InvalidRequest
from tierd_client.client import Client
from tierd_client.engines.transformers.blocks import CacheBlocks, Row
from tierd_client.engines.transformers.identity import (
    check_fixed,
    identity_of,
    stamp_of,
    tokens_max_of,
)
from tierd_client.engines.transformers.layers import (
    RememberingLayer,
    check_cache,
    kept_layers,
    new_cache,
)
from tierd_client.engines.transformers.requests import understood
from tierd_client.namespace import Namespace
from tierd_client.results import Published
from tierd_client.tensors import layout_of


@dataclass(frozen=True, slots=True)
class Prefix:
    """The longest stored prefix of a sequence, as the cache that the model goes on from.

    `tokens` of it are in `past_key_values`, which is always a cache: after a miss an empty one.
    `by_tier` says where these tokens were.
    """

    past_key_values: Any
    tokens: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reuse:
    """What came of a `generate`, all its sequences together.

    Units: `asked` tokens of prompts, padding not counted, of which `reused` came from tierd (by
    tier in `by_tier`) and `computed` did not; `generated` tokens of answers; `published` blocks.
    `bypassed` says why the model's own `generate` was called with nothing added; else empty.
    """

    asked: int = 0
    reused: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    generated: int = 0
    published: int = 0
    fetch_seconds: float = 0.0
    generate_seconds: float = 0.0
    publish_seconds: float = 0.0
    bypassed: str = ""


class TierdCache:
    """Keys and values of a model, kept in tierd: found by prefix, used instead of computing.

    For any decoder that uses transformers' `DynamicCache`, layers with sliding windows included.
    Blocks are shared by all processes whose models have equal weights, configuration, dtype,
    attention implementation, adapters and kind of device; names mean nothing. Where one of these
    changes later, the next call notices. `tenant` and `salt` keep apart what must not be shared.
    Whole blocks of `block_tokens` are kept, so up to that many tokens at the end of a prefix are
    computed again, the last one always.

    A daemon that is away, slow or full costs hits only.

    Concurrency: any method from any thread, as far as the model allows; `last` is of the
    `generate` that ended last.

    Raises:
        InvalidRequest: the model's cache has more or other than keys and values of every token
            (recurrent states, an encoder), its weights cannot be read, or it drops out at random.
    """

    def __init__(
        self,
        client: Client,
        model: Any,
        *,
        block_tokens: int = 32,
        tenant: str = "",
        salt: str = "",
    ) -> None:
        self.block_tokens = block_tokens
        self.last = Reuse()
        self._client = client
        self._model = model
        self._apart = {"tenant": tenant, "salt": salt}
        self._tokens_max = tokens_max_of(model.config.get_text_config(decoder=True))
        self._lock = threading.Lock()
        self._known: tuple[Hashable, CacheBlocks] | None = None
        self._blocks()

    @property
    def kv(self) -> Namespace:
        """The namespace of the model's blocks, for hints: `end_turn`, `prefetch`, `pin`."""
        return self._blocks().kv

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        """Return what `model.generate` returns for these arguments; `last` says what it took.

        Shapes: input_ids [batch, tokens]; attention_mask the same, its zeros on the left. All
        sequences go on from the same column, so of a batch as much is reused as the sequence
        with the shortest stored prefix allows. What is new, answers included, is published at
        the end.

        Beam search, assisted generation, a cache of one's own, `use_cache=False`, images and
        other inputs beside tokens go to `model.generate` as they are: nothing stored is used, and
        `last.bypassed` says why. So do prompts longer than what rotary embeddings that depend on
        length ("dynamic", "longrope") were first trained for.
        """
        request = understood(self._model, input_ids, attention_mask, kwargs)
        why = request.bypassed
        if not why and self._is_too_long(input_ids.shape[1]):
            why = f"its rotary embeddings depend on length beyond {self._tokens_max} tokens"
        if why:
            return self._bypass(input_ids, attention_mask, why, kwargs)
        start_s = time.monotonic()
        blocks = self._blocks()
        rows = [
            Row(tuple(ids[left:]), left)
            for ids, left in zip(request.ids.tolist(), request.padding, strict=True)
        ]
        found = blocks.filled(rows)
        if request.repeats > 1:
            found.cache.batch_repeat_interleave(request.repeats)
        fetched_s = time.monotonic()
        output = self._model.generate(
            request.ids, attention_mask=request.mask, past_key_values=found.cache, **kwargs
        )
        generated_s = time.monotonic()
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        answered = request.answered(sequences)
        published = self._publish_all(blocks, answered, found.cache) if found.answers else 0
        asked = sum(len(row.tokens) for row in rows)
        self.last = Reuse(
            asked=asked,
            reused=found.tokens,
            by_tier=found.by_tier,
            computed=asked - found.tokens,
            generated=sum(len(row.tokens) for row in answered) - asked * request.repeats,
            published=published,
            fetch_seconds=fetched_s - start_s,
            generate_seconds=generated_s - fetched_s,
            publish_seconds=time.monotonic() - generated_s,
        )
        return output

    def fetch(self, tokens: Any) -> Prefix:
        """Return the longest stored prefix of `tokens`, one sequence, without its last token.

        Shapes: `tokens` [n] or [1, n], a list, array or tensor. Give the model the tokens from
        `Prefix.tokens` on, with `past_key_values`.
        """
        start_s = time.monotonic()
        row = Row(_listed(tokens))
        if not row.tokens or self._is_too_long(len(row.tokens)):
            return Prefix(new_cache(self._model.config))
        found = self._blocks().filled([row])
        return Prefix(found.cache, found.tokens, found.by_tier, time.monotonic() - start_s)

    def publish(self, tokens: Any, past_key_values: Any) -> Published:
        """Offer the whole blocks of `tokens`, one sequence, that the cache holds.

        `tokens` are all from the first on, as in `fetch`; those that the cache does not hold yet
        do not count. What tierd holds already is neither gathered nor copied. In a cache that
        `fetch` did not return, layers with a sliding window have lost what left the window: then
        only later blocks are offered, and declined where those before them are not held.

        Raises:
            InvalidRequest: `past_key_values` is no cache of one sequence of this model.
        """
        blocks = self._blocks()
        check_cache(past_key_values, blocks.kept, 1)
        row = Row(_listed(tokens))
        if self._is_too_long(len(row.tokens)):
            return Published(declined=len(row.tokens) // self.block_tokens)
        published = blocks.publish(row, past_key_values)
        if not published.declined:
            whole = (published.blocks + published.held) * self.block_tokens
            for layer in past_key_values.layers:
                if isinstance(layer, RememberingLayer):
                    layer.forget_before(whole)
        return published

    # ---- how

    def _bypass(self, ids: Any, mask: Any, why: str, kwargs: dict[str, Any]) -> Any:
        given = kwargs if mask is None else {"attention_mask": mask, **kwargs}
        start_s = time.monotonic()
        output = self._model.generate(ids, **given)
        self.last = Reuse(generate_seconds=time.monotonic() - start_s, bypassed=why)
        return output

    def _publish_all(self, blocks: CacheBlocks, answered: list[Row], cache: Any) -> int:
        """Offer every sequence; return how many blocks are new."""
        if self._is_too_long(max(row.left + len(row.tokens) for row in answered)):
            return 0
        each = (blocks.publish(row, cache, index) for index, row in enumerate(answered))
        return sum(published.blocks for published in each)

    def _is_too_long(self, tokens: int) -> bool:
        return 0 < self._tokens_max < tokens

    def _blocks(self) -> CacheBlocks:
        """Return the cache as blocks, of the model as it is now."""
        stamp = stamp_of(self._model)
        with self._lock:
            if self._known is None or self._known[0] != stamp:
                check_fixed(self._model)
                kept = kept_layers(self._model)
                texts = identity_of(self._model) | self._apart
                layout = layout_of(kept.shapes, self.block_tokens, kept.dtype, **texts)
                kv = self._client.open(layout)
                self._known = stamp, CacheBlocks(kv, kept, self._model.config)
            return self._known[1]


def _listed(tokens: Any) -> list[int]:
    """Return one sequence of tokens as a list.

    Raises:
        InvalidRequest: it is several.
    """
    listed = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
    if listed and isinstance(listed[0], list):
        if len(listed) > 1:
            remedy = "give one sequence, or call `generate`"
            raise InvalidRequest("tokens", f"{len(listed)} sequences", remedy)
        listed = listed[0]
    return [int(token) for token in listed]
