"""A model of transformers as an engine in a process of its own.

Without tierd it goes on with the cache that it kept of the prompt before, as a program does that
holds one conversation: that is its local hit. With tierd it keeps nothing, so that every prefix
comes from the daemon.
"""

import time
from itertools import takewhile
from typing import Any, Protocol

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from tierd_bench.ttft.child import serve
from tierd_client import connect
from tierd_client.engines.transformers import TierdCache

BLOCK_TOKENS = 128
"""As vLLM's on a CPU, so that the same part of a prompt is reused."""


class Prefixes(Protocol):
    """Where caches of prompts come from, and go to."""

    def fetch(self, tokens: list[int], salt: str) -> tuple[int, Any]:
        """Return how many of `tokens` are known, never the last one, and the cache of those."""
        ...

    def publish(self, tokens: list[int], salt: str, cache: Any) -> None:
        """Take the cache of a prompt and its answer."""
        ...

    def forget(self) -> None:
        """Drop what is kept in this process."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class KeptHere:
    """The cache of the newest prompt of each salt, which the next one goes on from."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._kept: dict[str, tuple[list[int], Any]] = {}

    def fetch(self, tokens: list[int], salt: str) -> tuple[int, Any]:
        """Take the cache out, cropped to the whole blocks that `tokens` begin with, too."""
        known, cache = self._kept.pop(salt, ([], None))
        pairs = zip(tokens[:-1], known, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        reused = shared // BLOCK_TOKENS * BLOCK_TOKENS
        if not reused:
            return 0, DynamicCache(config=self._config)
        cache.crop(reused - cache.get_seq_length())
        return reused, cache

    def publish(self, tokens: list[int], salt: str, cache: Any) -> None:
        """Keep `cache`."""
        self._kept[salt] = tokens, cache

    def forget(self) -> None:
        """Drop all caches."""
        self._kept.clear()

    def close(self) -> None:
        """Nothing outlives the process."""


class KeptInTierd:
    """Blocks in a daemon, and nothing here."""

    def __init__(self, address: str, model: Any) -> None:
        self._client = connect(address)
        self._cache = TierdCache(self._client, model, block_tokens=BLOCK_TOKENS)

    def fetch(self, tokens: list[int], salt: str) -> tuple[int, Any]:
        """Fetch whole blocks."""
        assert not salt, "only the engine alone is asked with a salt"
        prefix = self._cache.fetch(tokens)
        return prefix.tokens, prefix.past_key_values

    def publish(self, tokens: list[int], salt: str, cache: Any) -> None:
        """Publish whole blocks."""
        self._cache.publish(tokens, cache)

    def forget(self) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        """Leave the daemon."""
        self._client.close()


class TransformersEngine:
    """One model. `connector` has the `address` of a daemon."""

    def __init__(self, model: str, tokens_max: int, connector: dict[str, Any] | None) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        config = self._model.config.get_text_config()
        self._tokens_max = min(tokens_max, config.max_position_embeddings)
        self._vocabulary = config.vocab_size
        self._prefixes: Prefixes = (
            KeptInTierd(connector["address"], self._model) if connector else KeptHere(config)
        )

    def facts(self) -> dict[str, Any]:
        """Return what prompts have to keep to, and what this is."""
        cache = DynamicCache(config=self._model.config)
        with torch.no_grad():
            self._model(input_ids=torch.tensor([[0]]), past_key_values=cache)
        tensors = [each for layer in cache.layers for each in (layer.keys, layer.values)]
        return {
            "tokens_max": self._tokens_max,
            "vocabulary": self._vocabulary,
            "block_tokens": BLOCK_TOKENS,
            "token_bytes": sum(each.nbytes for each in tensors),
            "engine": f"transformers {transformers.__version__}",
        }

    def ask(self, tokens: list[int], answer_tokens: int, salt: str) -> dict[str, Any]:
        """Answer a prompt, sharing KV only with prompts of the same `salt`.

        The first token is timed from before the fetch; publishing comes after the answer.
        """
        answer: list[tuple[int, float]] = []
        first_s = 0.0
        start_s = time.perf_counter()
        reused, cache = self._prefixes.fetch(tokens, salt)
        new = tokens[reused:]
        while len(answer) < answer_tokens:
            token, logprob = self._next_token(new, cache)
            first_s = first_s or time.perf_counter() - start_s
            answer.append((token, logprob))
            new = [token]
        self._prefixes.publish(tokens, salt, cache)
        return {"first_s": first_s, "reused_tokens": reused, "answer": answer}

    def forget(self) -> dict[str, Any]:
        """Drop what is kept in this process."""
        self._prefixes.forget()
        return {}

    def forget_connector_too(self) -> dict[str, Any]:
        """The same: between it and a daemon nothing is kept."""
        return self.forget()

    def close(self) -> None:
        """Leave the daemon."""
        self._prefixes.close()

    @torch.no_grad()
    def _next_token(self, new: list[int], cache: Any) -> tuple[int, float]:
        """Compute `new` tokens after those of `cache`; return the likeliest next one."""
        # Logits of a whole prompt would be as large as all its KV.
        output = self._model(
            input_ids=torch.tensor([new]), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logprobs = output.logits[0, -1].float().log_softmax(dim=-1)
        token = int(logprobs.argmax())
        return token, float(logprobs[token])


if __name__ == "__main__":
    serve(TransformersEngine)
