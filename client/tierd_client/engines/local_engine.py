"""An engine for `AgentSession` of a transformers model in this process, its KV kept in tierd."""

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import torch

from tierd_client.agents import Generated, Sampling
from tierd_client.client import Client
from tierd_client.engines.transformers import TierdCache
from tierd_client.namespace import Namespace


class LocalEngine:
    """Continues histories with a decoder model of transformers.

    Nothing of a history stays in this process between two steps: each step fetches what is held
    of it, computes the rest, and publishes what was new. Any process that has the same model
    goes on where this one stopped.

    Concurrency: any thread; one step at a time, because the model's cores are the same.

    Raises:
        InvalidRequest: the model is none whose KV can be kept, see `TierdCache`.
    """

    def __init__(self, client: Client, model: Any, *, block_tokens: int = 32) -> None:
        self._model: Final = model
        self._cache: Final = TierdCache(client, model, block_tokens=block_tokens)
        self._lock: Final = threading.Lock()

    @property
    def namespace(self) -> Namespace:
        """Where the blocks are."""
        return self._cache.kv

    @torch.no_grad()
    def generate(self, tokens: Sequence[int], sampling: Sampling) -> Generated:
        """Return what follows `tokens`."""
        with self._lock:
            started_s = monotonic()
            prefix = self._cache.fetch(tokens)
            past = prefix.past_key_values
            rolls = torch.Generator().manual_seed(sampling.seed)
            said: list[int] = []
            new = list(tokens[prefix.tokens :])
            ttft_s = 0.0
            while not _is_complete(said, sampling):
                logits = self._next(new, past)
                new = [_choose(logits, said, sampling, rolls)]
                said += new
                ttft_s = ttft_s or monotonic() - started_s
            seconds = monotonic() - started_s
            # The last token was chosen, and not yet computed with.
            self._cache.publish([*tokens, *said[:-1]], past)
        return Generated(said, prefix.tokens, dict(prefix.by_tier), ttft_s, seconds)

    def _next(self, tokens: list[int], past: Any) -> torch.Tensor:
        """Compute `tokens` after `past`, which grows by them; return the logits after the last."""
        ids = torch.tensor([tokens], device=self._model.device)
        output = self._model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[0, -1].float().cpu()
        return logits


def _is_complete(said: list[int], sampling: Sampling) -> bool:
    if sampling.options:
        return not sampling.allowed(said)
    return len(said) == sampling.tokens_max or bool(said and said[-1] in sampling.stops)


def _choose(
    logits: torch.Tensor, said: list[int], sampling: Sampling, rolls: torch.Generator
) -> int:
    if sampling.options:
        allowed = sampling.allowed(said)
        return allowed[int(logits[allowed].argmax())]
    if not sampling.temperature:
        return int(logits.argmax())
    chances = torch.softmax(logits / sampling.temperature, dim=-1)
    return int(torch.multinomial(chances, 1, generator=rolls))
